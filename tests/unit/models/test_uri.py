"""Addresses: what is written is read back, and nothing leaves its root."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airavata_provider.models.uri import StorageURI, file_uri, parse_file_uri, parse_storage_uri

components = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda text: text not in {".", ".."} and len(text.encode()) <= 255)
paths = st.lists(components, min_size=1, max_size=4).map("/".join)


@given(paths)
@example("a b/%2F?#&\n\t-x")
@example("naïve/Ω")
def test_storage_address_comes_back(path: str) -> None:
    address = StorageURI("data", path)
    assert parse_storage_uri(str(address)) == address
    assert parse_storage_uri(str(address) + "/", directory=True) == address


@given(paths)
def test_file_address_comes_back(path: str) -> None:
    assert parse_file_uri(file_uri("/" + path)) == "/" + path


@given(st.text(max_size=60))
def test_any_text_is_an_address_below_its_root_or_a_value_error(text: str) -> None:
    try:
        address = parse_storage_uri(f"storage://data/{text}")
    except ValueError:
        return
    parts = address.path.split("/")
    assert all(part and part not in {".", ".."} and "\0" not in part for part in parts)
    assert parse_storage_uri(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data/x",
        "http://data/x",
        "storage:data/x",
        "storage:///x",
        "storage://data",
        "storage://data/",
        "storage://data//x",
        "storage://data/x/",
        "storage://data/../x",
        "storage://data/a/%2e%2E/x",
        "storage://data/a%2fb",
        "storage://data/a%00b",
        "storage://data/a\0b",
        "storage://data/100%",
        "storage://data/%zz",
        "storage://data/%ff",
        "storage://data/a?b",
        "storage://data/a#b",
        "storage://data/\ud800",
        "storage://user@data/x",
        "storage://data/" + "x" * 256,
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_storage_uri(text)


def test_escapes_are_read_once() -> None:
    assert parse_storage_uri("storage://data/a%2525b").path == "a%25b"


def test_a_root_takes_names_behind_it() -> None:
    root = parse_storage_uri("storage://data/", directory=True)
    assert root == parse_storage_uri("storage://data", directory=True) == StorageURI("data", "")
    assert parse_storage_uri(f"{root}/x") == root.child("x") == StorageURI("data", "x")
    assert root.child("x").child("y z").name == "y z"


@pytest.mark.parametrize("text", ["file://host/x", "file:x", "/x", "file:///a/../b", "file:///", "file:////x"])
def test_file_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_file_uri(text)


def test_localhost_is_this_machine() -> None:
    assert parse_file_uri("file://localhost/a%20b") == "/a b"
