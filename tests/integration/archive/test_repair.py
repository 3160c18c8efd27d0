"""`esper archive repair` without a copy: what the log still holds, read from its own folder with nothing running."""

from __future__ import annotations

import signal

from esper.cli.archive import repair_command
from projections import manifest, open_history
from projections.generated import history, records
from tests.integration.archive.conftest import KEY


def test_a_file_that_has_gone_is_made_again_from_the_log(desk, end_with, monkeypatch, capsys):
    process = desk.start()
    sent = list(records(history(300)))
    desk.publish(sent)
    desk.wait_for(lambda: desk.archived() == len(sent))
    end_with(process, signal.SIGTERM)
    desk.broker.stop()
    with open_history(desk.archive) as opened:
        before = opened.execute("SELECT run_id, status, epochs_done FROM runs ORDER BY ALL").fetchall()
    (entry, *_) = manifest.load(desk.archive).of("epoch_completed")
    (desk.archive / "files" / entry.name).unlink()
    monkeypatch.setenv("ESPER_KEY", KEY)
    monkeypatch.delenv("ESPER_BROKERS", raising=False)

    repair_command(desk.data_dir, entry.name, None, as_json=False)

    assert f"the {entry.rows:,} rows of {entry.name} are back, from the log" in capsys.readouterr().out
    with open_history(desk.archive) as opened:
        assert opened.damage == []
        assert opened.execute("SELECT run_id, status, epochs_done FROM runs ORDER BY ALL").fetchall() == before
