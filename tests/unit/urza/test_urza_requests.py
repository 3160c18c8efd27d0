"""A trainer's requests: each asked for until it is answered, kept or refused, and never waited for."""

from __future__ import annotations

import pytest

from contracts.leyline.v1.leyline_pb2 import KernelArtifactReady
from esper.urza.artifact import Kernel, Refusal
from esper.urza.library import Wanted
from esper.urza.requests import NEWS_PAUSES_S, OVERDUE_S, PAUSES_S, KernelRequests
from esper.urza.version import Place

PLACE = Place.of("vector", (4,), {"depth": 2.0})
WANTED, OTHER = Wanted("BP009", PLACE), Wanted("BP021", PLACE)


class Story:
    """Requests over a real cache and store, and the library's answers as a test gives them."""

    def __init__(self, forge, kernels, clock):
        self.forge, self.kernels, self.clock = forge, kernels, clock
        self.requests = KernelRequests(kernels, clock)

    def ask(self, request_id):
        (wanted,) = self.requests.due()
        self.requests.asked(wanted, request_id)

    def ready(self, request_id, blueprint_id="BP009"):
        version = self.forge.make(blueprint_id)
        answer = KernelArtifactReady(
            request_id=request_id,
            blueprint_id=blueprint_id,
            artifact_ref=version.artifact_ref,
            checksum=version.checksum,
            guard_digest=version.guard_digest,
        )
        return self.requests.ready(answer)

    def fetch(self, expected):
        self.requests.read(expected, self.kernels.fetch(expected).kernel)


@pytest.fixture
def story(forge, kernels, clock):
    return Story(forge, kernels, clock)


def test_a_wish_is_asked_for_in_order_and_answered_into_memory(story):
    story.requests.add([WANTED, OTHER, WANTED])
    assert story.requests.due() == [WANTED, OTHER]
    story.requests.asked(OTHER, "b")
    story.ask("a")
    assert story.requests.kernel(WANTED) is None

    story.fetch(story.ready("a"))

    assert isinstance(story.requests.kernel(WANTED), Kernel)
    story.clock.now_s += 1e3
    assert story.requests.due() == [OTHER]


def test_what_is_germinated_unexpectedly_is_wanted_from_then_on(story):
    assert story.requests.kernel(WANTED) is None
    assert story.requests.due() == [WANTED]


def test_an_answer_that_nobody_waits_for_is_none(story):
    story.requests.add([WANTED])
    story.ask("a")
    assert story.ready("never asked") is None
    assert story.ready("a", blueprint_id="BP021") is None
    story.requests.add([OTHER])
    story.requests.asked(WANTED, "b")
    story.requests.asked(WANTED, "c")
    assert story.ready("b") is None
    assert story.ready("c") is not None
    assert story.ready("c") is None


def test_without_an_answer_it_is_asked_for_again_and_in_the_end_no_more(story):
    story.requests.add([WANTED])
    for number, pause in enumerate(PAUSES_S):
        story.ask(str(number))
        story.clock.now_s += pause - 0.1
        assert story.requests.due() == []
        story.clock.now_s += 0.2
    story.ask("the last")
    story.clock.now_s += 1e4
    assert story.requests.due() == []
    assert story.requests.kernel(WANTED) is None


def test_what_the_library_lacks_is_asked_for_when_the_catalogue_has_news_of_it(story):
    story.requests.add([WANTED])
    story.ask("a")
    story.requests.failed("a", "artifact_not_found")
    story.clock.now_s += 1e4
    assert (story.requests.due(), story.requests.kernel(WANTED)) == ([], None)

    story.requests.catalogued("BP021")
    story.clock.now_s += 1e4
    assert story.requests.due() == []
    story.requests.catalogued("BP009")
    for pause in NEWS_PAUSES_S:  # the library itself may hear of it later
        assert story.requests.due() == []
        story.clock.now_s += pause + 0.01
        story.ask(str(pause))
        story.requests.failed(str(pause), "artifact_not_found")
    story.clock.now_s += 1e4
    assert story.requests.due() == []


def test_what_could_not_be_had_just_then_is_a_failure_only_after_several_attempts(story):
    story.requests.add([WANTED])
    for number, pause in enumerate((*PAUSES_S, 0.0)):
        assert story.requests.kernel(WANTED) is None
        story.ask(str(number))
        story.requests.failed(str(number), "missing_artifact")
        story.clock.now_s += pause + 0.01

    assert story.requests.kernel(WANTED).reason == "missing_artifact"


def test_what_the_library_refuses_is_a_failure_until_there_is_another_version(story):
    story.requests.add([WANTED])
    story.ask("a")
    story.requests.failed("a", "checksum_mismatch")
    assert story.requests.kernel(WANTED).reason == "checksum_mismatch"

    story.requests.catalogued("BP009")
    story.clock.now_s += NEWS_PAUSES_S[0]
    story.ask("b")
    story.fetch(story.ready("b"))

    assert isinstance(story.requests.kernel(WANTED), Kernel)


def test_what_fails_the_trainers_own_check_is_a_failure(story, damage):
    story.requests.add([WANTED])
    story.ask("a")
    expected = story.ready("a")
    damage(expected.artifact_ref)
    story.fetch(expected)

    assert story.requests.kernel(WANTED).reason == "checksum_mismatch"


def test_what_went_bad_in_memory_is_refused_evicted_and_not_taken_again(story):
    story.requests.add([WANTED])
    story.ask("a")
    expected = story.ready("a")
    story.fetch(expected)
    good = story.requests.kernel(WANTED)
    bad = Kernel(good.artifact_ref, good.content, good.manifest, good.weights[:-1] + b"!", good.cache)
    story.kernels.memory[expected.artifact_ref] = bad

    refused = [story.requests.kernel(WANTED) for _ in range(2)]

    assert [each.reason for each in refused] == ["checksum_mismatch"] * 2
    assert len(story.kernels.memory) == 0


@pytest.mark.requirement("R-KAS-34")
def test_what_is_not_read_in_time_is_late(story):
    story.requests.add([WANTED])
    story.ask("a")
    story.ready("a")
    story.clock.now_s += OVERDUE_S
    assert story.requests.kernel(WANTED) is None
    story.clock.now_s += 0.1

    late = story.requests.kernel(WANTED)

    assert isinstance(late, Refusal)
    assert (late.reason, "not read within 2 s" in late.detail) == ("missing_artifact", True)


def test_what_made_room_for_others_is_fetched_again(story):
    story.requests.add([WANTED])
    story.ask("a")
    expected = story.ready("a")
    story.fetch(expected)
    del story.kernels.memory[expected.artifact_ref]

    assert story.requests.kernel(WANTED) is None
    assert story.requests.due() == [WANTED]
