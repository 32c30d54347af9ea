import enum
from pathlib import Path
from typing import Annotated, Self

import pydantic
import pytest

from conf import ConfigError, Section, digest, load


class Kind(enum.StrEnum):
    EXACT = "exact"
    NEAR = "near"


class Leaf(Section):
    threshold: float = 0.5
    label: str = "x"


class Other(Section):
    momentum: float = 0.9


class Runtime(Section):
    partitions: Annotated[int, pydantic.Field(ge=1)] = 1
    memory: str = "1g"
    leaf: Leaf = Leaf()
    smallest: int = 0
    largest: int = 10

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest is {self.smallest}, above largest = {self.largest}; lower it")
        return self


class Recipe(Section):
    store: str
    runtime: Runtime = Runtime()
    collections: dict[str, Leaf] = {}
    steps: list[Leaf] = []
    maybe: Leaf | None = None
    either: dict[str, Leaf | Other | None] = {}
    size_px: tuple[int, int] = (1, 1)
    kind: Kind = Kind.EXACT


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "recipe.yaml"

    def read(text: str, *overrides: str) -> Recipe:
        file.write_text(text, encoding="utf-8")
        return load(Recipe, file, overrides)

    return read


def refusal(recipe, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        recipe(text, *overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_recipe_is_read_with_its_defaults(recipe):
    read = recipe("store: s\nruntime: {partitions: 4}\ncollections: {birds: {threshold: 1}}")
    assert read == Recipe(
        store="s", runtime=Runtime(partitions=4), collections={"birds": Leaf(threshold=1.0, label="x")}
    )


def test_what_yaml_cannot_write_otherwise_is_accepted(recipe):
    read = recipe("store: s\nsize_px: [3, 4]\nkind: near")
    assert read.size_px == (3, 4)
    assert read.kind is Kind.NEAR


def test_a_section_cannot_be_changed(recipe):
    with pytest.raises(pydantic.ValidationError):
        recipe("store: s").store = "t"


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ("stor: s", "stor", "store"),
        ("runtime: {partition: 3}", "runtime.partition", "runtime.partitions"),
        ("runtime: {leaf: {treshold: 3}}", "runtime.leaf.treshold", "runtime.leaf.threshold"),
        ("collections: {birds: {treshold: 3}}", "collections.birds.treshold", "collections.birds.threshold"),
        ("collections: {threshold: {lable: y}}", "collections.threshold.lable", "collections.threshold.label"),
        ("steps: [{}, {treshold: 3}]", "steps.1.treshold", "steps.1.threshold"),
        ("maybe: {treshold: 3}", "maybe.treshold", "maybe.threshold"),
        ("either: {a: {momentun: 3}}", "either.a.Other.momentun", "either.a.Other.momentum"),
    ],
)
def test_an_unknown_key_suggests_the_nearest_known_one(recipe, text, unknown, nearest):
    assert f"unknown key {unknown!r}; did you mean {nearest!r}?" in refusal(recipe, text)


def test_a_value_where_names_are_wanted_says_how_to_give_one(recipe):
    assert "collections = 'a.jpg': needs a name; pass collections.NAME=a.jpg" in refusal(recipe, "collections: a.jpg")


def test_an_unknown_key_near_to_none_lists_those_that_exist(recipe):
    message = refusal(recipe, "store: s\nmaybe: {zzz: 1}")
    assert "unknown key 'maybe.zzz'; the keys there are label, threshold" in message


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("runtime.partitions=many", "runtime.partitions", "'many'"),
        ("runtime.partitions='4'", "runtime.partitions", "'4'"),
        ("runtime.partitions=1.5", "runtime.partitions", "1.5"),
        ("runtime.partitions=true", "runtime.partitions", "True"),
        ("runtime.partitions=0", "runtime.partitions", "0"),
        ("runtime.memory=3", "runtime.memory", "3"),
        ("runtime.leaf=3", "runtime.leaf", "3"),
        ("steps=[{threshold: high}]", "steps.0.threshold", "'high'"),
        ("kind=nearly", "kind", "'nearly'"),
        ("size_px=[3]", "size_px", "[3]"),
        ("size_px=[3,4,5]", "size_px", "[3, 4, 5]"),
        ("runtime.leaf.threshold=.nan", "runtime.leaf.threshold", "nan"),
        ("runtime.leaf.threshold=.inf", "runtime.leaf.threshold", "inf"),
        ("store=", "store", "None"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(recipe, tmp_path, override, key, value):
    message = refusal(recipe, "store: s", override)
    assert message.startswith(f"{tmp_path}/recipe.yaml: {key} = {value}: ")


def test_a_rule_between_keys_is_told_in_its_own_words(recipe, tmp_path):
    message = refusal(recipe, "store: s", "runtime.smallest=11")
    assert message == f"{tmp_path}/recipe.yaml: runtime: smallest is 11, above largest = 10; lower it"


def test_a_missing_key_tells_how_to_give_it(recipe):
    assert "the key 'store' is missing; add it or pass store=value" in refusal(recipe, "runtime: {partitions: 2}")
    assert "the key 'store' is missing" in refusal(recipe, "")


def test_every_fault_is_told_at_once(recipe):
    message = refusal(recipe, "stor: s\nruntime: {partitions: x}")
    assert "'store' is missing" in message
    assert "'stor'" in message
    assert "runtime.partitions = 'x'" in message


@pytest.mark.parametrize("text", ["a: [1", "a: \t- b", "store: a\nstore: b", "{"])
def test_what_is_not_yaml_names_the_file_and_the_line(recipe, tmp_path, text):
    message = refusal(recipe, text)
    assert message.startswith(f"{tmp_path}/recipe.yaml: is not valid YAML")
    assert "line" in message


def test_a_list_is_no_recipe(recipe):
    assert "holds a list" in refusal(recipe, "- a\n- b", "store=s")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Recipe, file)


def test_an_interpolation_is_resolved_and_a_broken_one_names_its_key(recipe):
    assert recipe("store: a/${kind}\nkind: near").store == "a/near"
    assert "store: Interpolation key 'nope' not found" in refusal(recipe, "store: ${nope}")


@pytest.mark.parametrize(
    ("overrides", "partitions"),
    [((), 2), (("runtime.partitions=4",), 4), (("runtime.partitions=4", "runtime.partitions=5"), 5)],
)
def test_the_last_override_wins(recipe, overrides, partitions):
    read = recipe("store: s\nruntime: {partitions: 2, memory: 8g}", *overrides)
    assert read.runtime == Runtime(partitions=partitions, memory="8g")


def test_an_override_reaches_into_sections_that_the_file_lacks_and_into_lists(recipe):
    read = recipe("store: s\nsteps: [{label: a}, {label: b}]", "collections.birds.threshold=0.3", "steps.1.threshold=2")
    assert read.collections == {"birds": Leaf(threshold=0.3)}
    assert read.steps == [Leaf(label="a"), Leaf(label="b", threshold=2.0)]


def test_a_mapping_is_merged_and_an_empty_one_empties(recipe):
    text = "store: s\nruntime: {partitions: 2, memory: 8g}\ncollections: {birds: {label: a}, fish: {label: b}}"
    assert set(recipe(text, "collections={whales: {label: c}}").collections) == {"birds", "fish", "whales"}
    assert recipe(text, "collections={}").collections == {}
    assert set(recipe(text, "collections={ }", "collections.whales.label=c").collections) == {"whales"}
    assert recipe(text, "runtime={}").runtime == Runtime()
    assert recipe("store: s", "runtime.leaf={}").runtime == Runtime()
    assert recipe("store: s\nsteps: [{label: a}]", "steps.0={}").steps == [Leaf()]


def test_an_override_keeps_what_follows_the_first_equals_sign(recipe):
    assert recipe("store: s", "store=s3://b/k=v").store == "s3://b/k=v"


@pytest.mark.parametrize("override", ["runtime.partitions", "=3", "runtime.=3", ".=3", ""])
def test_an_override_without_key_or_value_is_refused(recipe, override):
    assert f"override {override!r} is not key=value" in refusal(recipe, "store: s", override)


def test_an_override_that_is_not_yaml_is_named(recipe):
    assert refusal(recipe, "store: s", "store=[1").startswith("override 'store=[1' cannot be applied: ")


def test_a_recipe_is_found_from_any_folder_and_a_misspelt_one_suggests_the_nearest(tmp_path, monkeypatch):
    name = sorted((Path(__file__).parents[2] / "conf").rglob("demo.yaml"))[0].relative_to(Path(__file__).parents[2])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="unknown key"):
        load(Leaf, name)  # it was found, and read
    misspelt = str(name).replace("demo", "dmeo")
    with pytest.raises(ConfigError, match=f"{misspelt}: no such recipe; did you mean {name}"):
        load(Leaf, misspelt)
    with pytest.raises(ConfigError, match=f"zzz: no such recipe; the recipes here are .*{name}"):
        load(Leaf, "zzz")


def test_a_file_of_the_users_own_comes_before_one_of_the_same_name_here(tmp_path, monkeypatch):
    own = tmp_path / "conf" / "curation" / "demo.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("label: mine")
    monkeypatch.chdir(tmp_path)
    assert load(Leaf, "conf/curation/demo.yaml").label == "mine"


def test_equal_sections_have_equal_digests_whatever_their_order(recipe):
    first = recipe("store: s\ncollections: {a: {threshold: 1}, b: {label: y}}\nruntime: {memory: 2g, partitions: 3}")
    second = recipe("runtime: {partitions: 3, memory: 2g}\ncollections: {b: {label: y}, a: {threshold: 1.0}}\nstore: s")
    assert digest(first) == digest(second)
    assert len(digest(first)) == 64
    assert int(digest(first), 16)


@pytest.mark.parametrize(
    "change", ["store=t", "runtime.leaf.threshold=0.51", "steps=[{}]", "size_px=[1, 2]", "kind=near"]
)
def test_every_value_counts_in_the_digest(recipe, change):
    assert digest(recipe("store: s", change)) != digest(recipe("store: s"))


def test_a_digest_does_not_change_between_versions_of_this_code():
    # SHA-256 of {"label":"x","threshold":0.5}, by sha256sum: a store's runs are known by their digests
    assert digest(Leaf()) == "b67985af628f7b8597d32f63209b98cd52a366340fd09deeb4b4803fb0e48f12"
