"""What nothing needs goes, and only that."""

import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from curation import schema
from curation.images.ids import image_id
from spark_jobs.stage import lock_store
from spark_jobs.tables import RunKey, Tables
from spark_jobs.vacuum import find_waste, main, remove

OLD, NOW, KILLED = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"
OLDER = "dddddddddddddddd"
PICTURE = b"\xff\xd8\xff a picture"


def images(run_id):
    shard = f"store:shards/{run_id}/00000.tar"
    row = {"image_id": image_id(PICTURE), "shard": shard, "offset_bytes": 512, "size_bytes": len(PICTURE)}
    return pa.Table.from_pylist([row], schema=schema.IMAGES.schema)


def put(path, data=b"0123456789"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def store(tmp_path):
    """Two finished runs of index, the first replaced by the second, and one that was killed."""
    root = tmp_path / "store"
    store = Tables(str(root))
    DeltaTable.create(store.table_uri("decisions"), schema.DECISIONS.schema, partition_by=["stage"])
    for run_id in (OLD, NOW):
        run = RunKey("index", run_id, {}, {})
        put(root / "shards" / run_id / "00000.tar", bytes(512) + PICTURE)
        store.write(schema.IMAGES, images(run_id), run)
        store.finish(run, 0, {}, (schema.IMAGES,))
    put(root / "shards" / KILLED / "00000.tar")
    return store


def left(store):
    root = Path(store.uri)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_leftovers_go_and_every_version_of_every_table_stays(store):
    root = Path(store.uri)
    orphan = put(root / "tables" / "images" / "part-0.parquet")
    ledger = put(root / "tables" / "decisions" / "stage=index" / "part-1.parquet")
    half = put(root / "shards" / NOW / ".00001.tar.ffff.part")
    index = put(root / "indexes" / KILLED / "pool.faiss")
    step = put(root / "scratch" / KILLED / "edges" / "part-0.parquet")
    shard = put(root / "indexes" / "copies" / "00000" / "shard-00000.arrow")
    tile = {"index": "copies", "shard": shard.relative_to(root).as_posix()}
    run = RunKey("dedup", "copies", {}, {})
    store.append(schema.TILES, pa.Table.from_pylist([tile], schema.TILES.schema), run, {})
    before = left(store) - {path.relative_to(root).as_posix() for path in (orphan, ledger, half, index, step)}
    note = put(root / "tables" / "images" / "a note of somebody's")
    old = root / "shards" / OLD / "00000.tar"
    waste = find_waste(store)
    assert {path for each in waste for path in each.files} == {orphan, ledger, half, index, step, old}
    assert sum(each.size_bytes for each in waste) == 5 * 10 + old.stat().st_size
    remove(store, waste)
    assert left(store) == before - {f"shards/{OLD}/00000.tar"} | {note.relative_to(root).as_posix()}
    assert not (root / "shards" / OLD).exists()
    assert find_waste(store) == []
    (row,) = store.table("images").to_pylist()
    assert store.read_image(row["shard"], row["offset_bytes"], row["size_bytes"]) == PICTURE
    for version in range(1, 3):
        table = DeltaTable(store.table_uri("images"), version=version)
        assert all(Path(store.table_uri("images"), file).exists() for file in store.files(table))


def test_shards_of_a_run_that_may_continue_stay_unless_the_recipe_says_otherwise(store):
    def folders(waste):
        return {each.folder for each in waste}

    assert folders(find_waste(store)) == {f"shards/{OLD}"}
    assert folders(find_waste(store, frozenset({NOW, KILLED}))) == {f"shards/{OLD}"}
    assert folders(find_waste(store, frozenset({NOW}))) == {f"shards/{OLD}", f"shards/{KILLED}"}
    assert f"shards/{NOW}" not in folders(find_waste(store, frozenset()))


def test_rounds_of_k_means_stay_for_a_run_that_may_continue(store):
    rounds = Path(store.uri) / "rounds"
    may_continue, over = put(rounds / KILLED / "000003.npy"), put(rounds / OLD / "points" / "part.npy")

    def found(continued=None):
        return {file for waste in find_waste(store, continued) for file in waste.files if rounds in file.parents}

    assert found() == {over}
    assert found(frozenset({KILLED})) == {over}
    assert found(frozenset({NOW})) == {over, may_continue}
    remove(store, find_waste(store, frozenset({NOW})))
    assert not any(rounds.rglob("*.npy"))


def test_a_table_that_an_unfinished_run_has_written_holds_its_shards(store):
    store.write(
        schema.FILES,
        pa.Table.from_pylist([{"path": "p", "shard": f"store:shards/{KILLED}/00000.tar"}], schema=schema.FILES.schema),
        RunKey("index", KILLED, {}, {}),
    )
    assert {each.folder for each in find_waste(store, frozenset())} == {f"shards/{OLD}"}


def test_a_history_that_cannot_be_read_stops_it(store):
    put(Path(store.uri) / "tables" / "images" / "part-0.parquet")
    (Path(store.table_uri("images")) / "_delta_log" / f"{1:020d}.json").write_text("{")
    with pytest.raises(ValueError, match="nothing is removed"):
        find_waste(store)


def test_links_to_other_places_are_not_followed(store, tmp_path):
    elsewhere = put(tmp_path / "elsewhere" / "precious.tar")
    (Path(store.uri) / "shards" / OLD / "link").symlink_to(elsewhere.parent)
    (Path(store.uri) / "shards" / OLD / "link.tar").symlink_to(elsewhere)
    remove(store, find_waste(store))
    assert elsewhere.read_bytes()


@pytest.mark.parametrize("place", ["indexes", "indexes/one", f"shards/{OLDER}", "tables/other", "tables/images/more"])
def test_a_folder_that_is_a_link_is_left_alone(store, tmp_path, place):
    elsewhere = tmp_path / "elsewhere"
    DeltaTable.create(str(elsewhere), schema.DECISIONS.schema)
    put(elsewhere / "precious.parquet")
    store.finish(RunKey("index", OLDER, {}, {}), 0, {}, (schema.IMAGES,))
    link = Path(store.uri, place)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    waste = find_waste(store)
    assert {each.folder for each in waste} == {f"shards/{OLD}"}
    remove(store, waste)
    assert (elsewhere / "precious.parquet").exists()


@pytest.mark.parametrize("name", ["shards", "tables"])
def test_all_of_them_may_lie_behind_a_link(store, tmp_path, name):
    put(Path(store.uri, "tables", "images", "part-0.parquet"))
    other = {"shards": "tables", "tables": "shards"}[name]
    Path(store.uri, name).rename(tmp_path / "elsewhere")
    Path(store.uri, name).symlink_to(tmp_path / "elsewhere")
    assert {each.folder.partition("/")[0] for each in find_waste(store)} == {other}


def test_a_store_may_be_a_link(store, tmp_path):
    (tmp_path / "link").symlink_to(store.uri)
    assert {each.folder for each in find_waste(Tables(str(tmp_path / "link")))} == {f"shards/{OLD}"}


def test_what_has_gone_meanwhile_is_no_failure(store):
    waste = find_waste(store)
    (Path(store.uri) / "shards" / OLD / "00000.tar").unlink()
    remove(store, waste)
    assert find_waste(store) == []


@pytest.fixture
def vacuum(monkeypatch, capsys):
    """The command; returns what it prints."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["vacuum", *arguments])
        assert main() == 0
        return capsys.readouterr().out

    return call


def test_the_command_removes_only_when_told_and_only_alone(store, vacuum):
    before = left(store)
    size = 512 + len(PICTURE)
    told = vacuum(store.uri)
    assert re.search(rf"shards/{OLD} +1 files +{size} bytes", told)
    assert f"1 files, {size} bytes to be removed with --remove" in told
    assert left(store) - {"lock"} == before
    with lock_store(Path(store.uri) / "lock"), pytest.raises(ValueError, match="another process is writing this store"):
        vacuum(store.uri, "--remove")
    assert left(store) - {"lock"} == before
    vacuum(store.uri, "--remove")
    assert left(store) - {"lock"} == before - {f"shards/{OLD}/00000.tar"}


def test_a_recipe_names_the_store_and_the_runs_that_it_would_continue(store, vacuum):
    config = f"store={store.uri}"
    assert f"shards/{KILLED}" in vacuum("conf/curation/own.yaml", config)
    assert KILLED not in vacuum(store.uri)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["memory://store", "--remove"], "only local stores"),
        (["nowhere/at/all", "--remove"], "no store is there"),
        (["nowhere", "recipe.x=1"], "has no keys to override"),
    ],
)
def test_what_is_no_local_store_is_refused(vacuum, arguments, message):
    with pytest.raises(ValueError, match=message):
        vacuum(*arguments)
