"""kcat, the tool that an operator has at hand."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed (Debian: apt install kcat)")


@pytest.fixture
def kcat(brokers):
    def run(*arguments, stdin=""):
        command = ["kcat", "-b", brokers, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_it_lists(kcat, new_topic):
    topic = new_topic(3)
    listed = json.loads(kcat("-L", "-J"))
    assert len(next(t for t in listed["topics"] if t["topic"] == topic)["partitions"]) == 3


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_it_writes_and_reads(kcat, new_topic, codec):
    topic = new_topic()
    lines = "".join(f"line {number}\n" for number in range(500))
    kcat("-P", "-t", topic, "-z", codec, stdin=lines)
    assert kcat("-C", "-t", topic, "-o", "beginning", "-e", "-q") == lines
    assert kcat("-C", "-t", topic, "-o", "-2", "-e", "-q") == "line 498\nline 499\n"


def test_it_asks_for_offsets_by_time(kcat, new_topic):
    topic = new_topic()
    kcat("-P", "-t", topic, stdin="one\ntwo\n")
    assert kcat("-Q", "-t", f"{topic}:0:0").strip() == f"{topic} [0] offset 0"


def test_it_reads_as_a_group(kcat, new_topic, group_id):
    topic = new_topic(2)
    kcat("-P", "-t", topic, "-p", "0", stdin="a\nb\n")
    kcat("-P", "-t", topic, "-p", "1", stdin="c\n")
    read = kcat("-G", group_id, "-X", "auto.offset.reset=earliest", "-e", "-q", topic)
    assert sorted(read.split()) == ["a", "b", "c"]
