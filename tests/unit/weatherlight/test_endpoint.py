"""The supervisor is found through its folder: one lock, one socket, however long the path."""

from __future__ import annotations

import pytest

from esper.weatherlight import endpoint


def test_only_one_holds_the_lock(tmp_path):
    first = endpoint.take_lock(tmp_path)
    assert first is not None
    assert endpoint.take_lock(tmp_path) is None
    first.close()
    second = endpoint.take_lock(tmp_path)
    assert second is not None
    second.close()


@pytest.mark.parametrize("depth", [1, 12])
def test_socket_is_reached_under_short_and_very_long_paths(tmp_path, depth):
    data_dir = tmp_path.joinpath(*["a-long-folder-name"] * depth)
    assert endpoint.connect(data_dir) is None
    with endpoint.bind(data_dir) as listener:
        connection = endpoint.connect(data_dir)
        assert connection is not None
        accepted, _ = listener.accept()
        connection.sendall(b"hello")
        assert accepted.recv(5) == b"hello"
        accepted.close()
        connection.close()
    assert endpoint.connect(data_dir) is None  # the name is there still, but nobody listens
    endpoint.unlink(data_dir)
    assert endpoint.connect(data_dir) is None


def test_socket_is_the_owners_alone(tmp_path):
    with endpoint.bind(tmp_path):
        assert (tmp_path / "run" / endpoint.SOCKET_NAME).stat().st_mode & 0o777 == 0o600


def test_bind_replaces_what_a_killed_supervisor_left(tmp_path):
    endpoint.bind(tmp_path).close()
    with endpoint.bind(tmp_path):
        connection = endpoint.connect(tmp_path)
        assert connection is not None
        connection.close()
