"""Which key signs: set by the environment, made for the embedded log, or refused (ruling 25)."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import stat

import pytest

from esper.errors import InvalidInput
from esper.leyline.signing import key_id
from streams.keys import key_file, load_key_ring
from streams.settings import Settings, is_loopback

NEW, OLD, OLDEST = "a1" * 32, "b2" * 32, "c3" * 32
EMBEDDED = "127.0.0.1:9092"


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """No test touches the key of whoever runs it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("ESPER_KEY", "ESPER_KEY_PREVIOUS", "ESPER_KEYS_RETIRED", "ESPER_BROKERS", "ESPER_DATA"):
        monkeypatch.delenv(name, raising=False)


def test_the_embedded_log_gets_a_key_of_the_users_own_and_says_so_once(tmp_path, capsys):
    ring = load_key_ring(Settings.load(data=tmp_path / "data"), EMBEDDED)

    said = capsys.readouterr().err
    assert str(key_file()) in said
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    assert key_file().is_relative_to(tmp_path / "config")
    secret = key_file().read_text().strip()
    assert secret not in said
    assert len(bytes.fromhex(secret)) == 32

    again = load_key_ring(Settings.load(), EMBEDDED)

    assert again.sign(b"x") == ring.sign(b"x")
    assert capsys.readouterr().err == ""


def _load_in_a_process(barrier):
    barrier.wait()
    return load_key_ring(Settings.load(), EMBEDDED).sign(b"x").key_id


def test_processes_that_start_at_once_agree_on_one_key():
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager, concurrent.futures.ProcessPoolExecutor(4, mp_context=context) as pool:
        barrier = manager.Barrier(4)
        key_ids = list(pool.map(_load_in_a_process, [barrier] * 4))

    assert len(set(key_ids)) == 1
    assert list(key_file().parent.iterdir()) == [key_file()]


@pytest.mark.requirement("R-TAM-41")
@pytest.mark.parametrize("brokers", ["redpanda:9092", "10.0.0.5:9092", "127.0.0.1:9092,kafka.example:9092"])
def test_a_log_that_others_can_reach_is_refused_without_a_key(brokers):
    with pytest.raises(InvalidInput, match="needs a signing key: set ESPER_KEY") as refused:
        load_key_ring(Settings.load(), brokers)

    assert "\n" not in str(refused.value)
    assert not key_file().exists()


def test_a_log_named_by_esper_brokers_is_refused_without_a_key_even_on_loopback(monkeypatch):
    monkeypatch.setenv("ESPER_BROKERS", "localhost:9092")

    with pytest.raises(InvalidInput, match="localhost:9092 needs a signing key"):
        load_key_ring(Settings.load())


def test_both_keys_of_a_rotation_are_accepted_and_the_new_one_signs(monkeypatch):
    monkeypatch.setenv("ESPER_KEY", OLD)
    before = load_key_ring(Settings.load(), "redpanda:9092").sign(b"event")
    monkeypatch.setenv("ESPER_KEY", NEW)
    monkeypatch.setenv("ESPER_KEY_PREVIOUS", OLD)
    ring = load_key_ring(Settings.load(), "redpanda:9092")

    assert ring.verify(before, arrived_ns=0) is None
    assert ring.sign(b"event").key_id == key_id(bytes.fromhex(NEW))


def test_a_retired_key_vouches_for_what_is_older_and_for_nothing_newer(monkeypatch):
    monkeypatch.setenv("ESPER_KEY", OLDEST)
    signed = load_key_ring(Settings.load(), "redpanda:9092").sign(b"event")
    monkeypatch.setenv("ESPER_KEY", NEW)
    monkeypatch.setenv("ESPER_KEYS_RETIRED", f"{OLD}@900, {OLDEST}@1000")
    ring = load_key_ring(Settings.load(), "redpanda:9092")

    assert ring.verify(signed, arrived_ns=999_999_999_999) is None
    assert ring.verify(signed, arrived_ns=1_000_000_000_000) == "invalid_signature"


@pytest.mark.parametrize(
    ("name", "value"),
    [("ESPER_KEY", "not hex at all"), ("ESPER_KEY", "ab" * 31), ("ESPER_KEY_PREVIOUS", "zz" * 32)],
)
def test_a_key_that_is_none_is_named_by_its_variable_and_never_shown(monkeypatch, name, value):
    monkeypatch.setenv("ESPER_KEY", NEW)
    monkeypatch.setenv(name, value)

    with pytest.raises(InvalidInput, match=f"{name} is no signing key") as refused:
        load_key_ring(Settings.load(), EMBEDDED)

    assert value not in str(refused.value)


def test_a_retired_key_without_its_time_is_refused(monkeypatch):
    monkeypatch.setenv("ESPER_KEY", NEW)
    monkeypatch.setenv("ESPER_KEYS_RETIRED", OLD)

    with pytest.raises(InvalidInput, match="HEX@UNIX_SECONDS") as refused:
        load_key_ring(Settings.load(), EMBEDDED)

    assert OLD not in str(refused.value)


def test_before_the_first_rotation_the_keys_before_it_may_be_set_to_nothing(monkeypatch):
    """As compose does with variables that nobody has set."""
    monkeypatch.setenv("ESPER_KEY", NEW)
    for name in ("ESPER_KEY_PREVIOUS", "ESPER_KEYS_RETIRED"):
        monkeypatch.setenv(name, "")

    ring = load_key_ring(Settings.load(), "redpanda:9092")

    assert (ring.secrets, ring.retired) == ((bytes.fromhex(NEW),), {})


def test_a_key_file_that_others_can_read_is_refused_with_the_way_out():
    load_key_ring(Settings.load(), EMBEDDED)
    key_file().chmod(0o644)

    with pytest.raises(InvalidInput, match=r"mode 0644.*chmod 600"):
        load_key_ring(Settings.load(), EMBEDDED)


def test_settings_and_rings_do_not_print_their_secrets(monkeypatch):
    monkeypatch.setenv("ESPER_KEY", NEW)
    monkeypatch.setenv("ESPER_KEY_PREVIOUS", OLD)
    settings = Settings.load()

    shown = f"{settings!r} {settings} {load_key_ring(settings, EMBEDDED)!r}"

    assert NEW not in shown
    assert OLD not in shown


def test_a_bad_setting_is_one_line_that_names_its_variable(monkeypatch):
    monkeypatch.setenv("ESPER_BROKERS", "")

    with pytest.raises(InvalidInput, match="ESPER_BROKERS: ") as refused:
        Settings.load()

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("brokers", "loopback"),
    [
        ("127.0.0.1:9092", True),
        ("localhost:9092,[::1]:9093", True),
        ("0.0.0.0:9092", False),
        ("redpanda:9092", False),
        ("127.0.0.1:9092,10.1.2.3:9092", False),
    ],
)
def test_loopback_is_what_only_this_machine_can_reach(brokers, loopback):
    assert is_loopback(brokers) is loopback
