"""The curation recipe as a strict, frozen configuration: what is read, what is done, and how fast.

``recipe`` keys may change results and are hashed into each run; ``runtime`` keys must not change them.
"""

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator, model_validator

from conf import Section
from curation.descriptors.base import EmbedderSpec
from curation.fetch.options import FetchOptions, FetchPolicy
from curation.images.pca_hash import MAX_SAMPLE
from curation.images.quality import QualityRules
from curation.links.rights import check_names
from curation.links.rules import BLOCKED_DOMAINS, read_rules
from curation.safety.base import BOXED, NSFW, DetectorSpec
from curation.schema import POOL


class Sources(Section):
    """Where the inputs lie: paths or fsspec URIs."""

    pages: list[str] = []  # WARC, WAT and HTML files, and lists of them (*.paths, *.paths.gz): paths, folders or globs
    urls: list[str] = []  # URL lists: Parquet, CSV, JSON lines, text; columns besides url and caption are not read
    paths_root: str | None = None  # what a *.paths list's entries lie below; not needed where the list lies there too
    lists: dict[str, str] = {}  # name -> list of domains, suffixes and patterns to refuse (curation/links/rules.py)
    images: dict[str, str] = {}  # name -> folder of images or tars, indexed where they lie
    collections: dict[str, str] = {}  # name -> evaluation or query set: a folder of images, tars or Parquet, or a file
    stores: dict[str, str] = {}  # name -> another store, whose index (of the same model and lists) is a reference set


class ExtractLinks(Section):
    """Which links are taken from pages."""

    crawl: str  # name of the crawl, kept with every link
    blocked_domains: list[str] = []  # a few rules written here, as in a file of sources.lists
    # a page that carries one is not used; also known: noindex, noimageindex, none, tdm-reservation, tdm-policy
    opt_out_signals: list[str] = ["noai", "noimageai"]
    agent: str = "openlvd"  # directives that a page addresses to this robot hold for us

    @field_validator("opt_out_signals")
    @classmethod
    def _signals_are_known(cls, signals: list[str]) -> list[str]:
        return check_names(signals)

    @field_validator("blocked_domains")
    @classmethod
    def _rules_are_readable(cls, rules: list[str]) -> list[str]:
        read_rules(rules, BLOCKED_DOMAINS)
        return rules


class Download(Section):
    """What is asked of the web."""

    urls_per_shard: int = Field(1000, gt=0, le=10_000)
    honour_robots: bool = True
    robots_fail_closed: bool = True  # a host whose robots.txt cannot be had is not asked
    max_failed_share: float = Field(0.9, gt=0, le=1)  # of the URLs; above it the network is at fault: the stage fails
    fetch: FetchPolicy = FetchPolicy()


class Index(Section):
    """Content-addressed indexing has nothing to choose."""


class FrozenFile(Section):
    """What another run fitted or trained: the file it kept in its store, and the SHA-256 of its bytes."""

    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Screen(QualityRules):
    """Which images are fit for use, and how near-exact copies are found."""

    pca_hash: FrozenFile | None = None  # None: fitted
    pca_hash_sample: int = Field(10_000, gt=0, le=MAX_SAMPLE)  # images, in hash order, that its projection is fitted on
    detectors: dict[str, DetectorSpec] = {}  # by the name their findings carry; without one, nothing is evaluated
    nsfw_threshold: float | None = Field(None, gt=0, le=1)  # score from which an image is dropped; None: kept

    @model_validator(mode="after")
    def _somebody_gives_the_score(self) -> "Screen":
        if self.nsfw_threshold is not None and not any(NSFW in spec.labels for spec in self.detectors.values()):
            raise ValueError("nsfw_threshold needs a detector that finds nsfw; add one to detectors, or remove it")
        return self


class Embed(Section):
    """The embedders, by the name their table carries (``embeddings_<name>``)."""

    models: dict[str, EmbedderSpec]
    max_pixels: int = Field(100_000_000, gt=0)  # of an evaluation or query image; the pool's are screened


class Join(Section):
    """How pairs above a threshold are looked for (curation/neighbours/join.py)."""

    method: Literal["exact", "spill"] = "exact"  # exact: every pair; spill: pairs that share a list
    num_lists: int = Field(4096, gt=1)  # spill, at most: the lists of a store's first snapshot stay its lists
    spill: int = Field(4, gt=0)  # spill: lists that a vector is put in
    sample: int = Field(262_144, gt=0)  # spill: vectors, in hash order, that the lists are trained on
    seed: int = 0
    quantiser: FrozenFile | None = None  # spill: another store's lists in place of trained ones

    @model_validator(mode="after")
    def _lists_are_enough(self) -> "Join":
        if self.method == "spill" and self.spill > self.num_lists:
            raise ValueError(f"spill {self.spill} is above num_lists {self.num_lists}; lower it")
        return self


class Reference(Section):
    """What a reference set has of its own."""

    threshold: float | None = Field(None, ge=-1, le=1)  # None: reference_threshold
    scope: Literal["component", "direct"] | None = None  # None: reference_scope


class Normalise(Section):
    """Score normalisation: half of both images' mean similarity to their nearest background pictures is taken off."""

    background: str  # a collection whose pictures are nobody's copies
    num_neighbours: int = Field(3, gt=0)
    weight: float = Field(1.0, ge=0, le=1)


class Dedup(Section):
    """Near-duplicate removal within the pool, then against evaluation sets (DINOv2 paper, section 3)."""

    model: str
    threshold: float = Field(ge=-1, le=1)  # cosine above which two images are near-duplicates
    k: int | None = Field(None, gt=0)  # only pairs among one's k most similar count (the paper's 64); None: all do
    # which images of a group go: all but the best (paper), or those with a direct edge to one that stays (witness)
    mode: Literal["witness", "paper"] = "witness"
    normalise: Normalise | None = None  # pairs of the pool count only if they stand out of a background
    join: Join = Join()
    against: list[str] = []  # collections, or entries of sources.stores, whose copies must not be released
    references: dict[str, Reference] = {}  # of some of them: what they have of their own
    reference_threshold: float = Field(ge=-1, le=1)
    reference_scope: Literal["component", "direct"] = "component"
    # of the pool; a larger component stops the run, but never one of up to 1,000 images, whatever their share
    max_component_share: float = Field(0.01, gt=0, le=1)
    certificate_sample: int = Field(1000, ge=0)  # images whose edges are looked for again, exactly; 0: none

    @model_validator(mode="after")
    def _references_are_used(self) -> "Dedup":
        if unused := sorted(set(self.references) - set(self.against)):
            raise ValueError(f"references.{unused[0]} is no set of against; add it there, or remove it here")
        return self

    def reference(self, name: str) -> tuple[float, Literal["component", "direct"]]:
        """Threshold and scope of a reference set."""
        own = self.references.get(name, Reference())
        return (
            self.reference_threshold if own.threshold is None else own.threshold,
            own.scope or self.reference_scope,
        )


class Cluster(Section):
    """Spherical k-means over the semantic embedding, and its centroids clustered again, level by level."""

    model: str
    num_clusters: int = Field(gt=0)  # of the bottom level, to which images belong
    num_iterations: int = Field(20, gt=0)
    sample: int = Field(1_000_000, gt=0)  # training points, taken in hash order
    levels: list[int] = []  # clusters of the levels above the bottom, the lowest first
    resample_rounds: int = Field(3, ge=0)  # of a level above the bottom
    resample_members: int = Field(4, gt=0)  # nearest to its centroid that a cluster gives to such a round
    seed: int = 0

    @field_validator("levels")
    @classmethod
    def _levels_fall(cls, levels: list[int]) -> list[int]:
        if any(k < 1 for k in levels) or any(b >= a for a, b in pairwise(levels)):
            raise ValueError(f"levels {levels}: each level has fewer clusters than the one below it, the lowest first")
        return levels

    @model_validator(mode="after")
    def _levels_lie_above(self) -> "Cluster":
        if self.levels and self.levels[0] >= self.num_clusters:
            raise ValueError(f"levels {self.levels}: give fewer clusters than num_clusters, {self.num_clusters}")
        return self


class Published(Section):
    """What a paper's table says of a set; the report compares, and nothing else depends on it."""

    task: str
    dataset: str
    split: str | None = None
    images: int = Field(gt=0)  # of the set
    retrieved: int | None = Field(None, gt=0)  # before the set's cap; None: taken as it is
    final: int = Field(gt=0)  # in the data set


class QuerySet(Section):
    """How one query set draws images from the pool (paper, section 3: data retrieval), or is taken as it is."""

    method: Literal["sample", "cluster", "as_is"]
    collection: str | None = None  # of sources.collections; None: the one that bears the set's name
    k: int = Field(4, gt=0)  # sample: images for each query image
    candidates: int | None = Field(None, gt=0)  # sample: neighbours looked for; None: k, by policy unique 4 k
    min_queries: int = Field(4, gt=0)  # cluster: a cluster with at least this many query images is drawn from
    take: int | None = Field(None, gt=0)  # cluster: images from one cluster; None: per_cluster
    cap: int | None = Field(None, gt=0)  # images of the set; None: per_collection by cluster, else no limit
    published: Published | None = None

    @model_validator(mode="after")
    def _candidates_are_enough(self) -> "QuerySet":
        if self.candidates is not None and self.candidates < self.k:
            raise ValueError(f"candidates {self.candidates} are fewer than k {self.k}; give as many or more")
        return self


class Search(Section):
    """How the pool is searched for query images: all of it, or the lists nearest to each, whole or by codes."""

    method: Literal["flat", "ivf", "ivfpq"] = "flat"
    shard_images: int = Field(200_000, gt=0)  # of a shard, which a task holds
    num_lists: int = Field(1024, gt=0)  # ivf, ivfpq: the same for all shards
    code_bytes: int = Field(64, gt=0)  # ivfpq: of an image; a divisor of the vector's length
    num_probes: int = Field(32, gt=0)  # ivf, ivfpq: lists searched for a query
    over_fetch: int = Field(8, gt=0)  # ivfpq: candidates scored exactly, for each neighbour wanted
    sample: int = Field(1_000_000, gt=0)  # ivf, ivfpq: vectors that lists and codes are trained on, by hash order


class Balance(Section):
    """A sample of the pool that is balanced over the tree of clusters."""

    target: int = Field(gt=0)  # images; met exactly where the pool has as many


class Retrieve(Section):
    """Selection of the release: by query sets, by a balanced sample, or everything where there are neither."""

    model: str
    sets: dict[str, QuerySet] = {}  # name -> how it draws
    balance: Balance | None = None  # besides the sets, or alone
    search: Search = Search()
    # paper: each query and cluster takes its share, collisions count; unique: an image that is taken is passed over
    policy: Literal["paper", "unique"] = "paper"
    per_cluster: int = Field(10_000, gt=0)  # images from one cluster for a set that says no other
    per_collection: int = Field(1_000_000, gt=0)  # images of a set by cluster that says no other
    seed: int = 0

    def collection(self, name: str) -> str:
        """The collection behind a set."""
        return self.sets[name].collection or name

    def candidates(self, name: str) -> int:
        """How many neighbours of a query of a set are looked for."""
        queries = self.sets[name]
        return queries.candidates or queries.k * (4 if self.policy == "unique" else 1)

    def limits(self, name: str) -> tuple[int | None, int | None]:
        """What a set may take: images for each query or from each cluster, and images in all."""
        queries = self.sets[name]
        if queries.method == "cluster":
            return queries.take or self.per_cluster, queries.cap or self.per_collection
        return queries.k if queries.method == "sample" else None, queries.cap


class Publish(Section):
    """The release's form."""

    name: str
    shard_bytes: int = Field(100_000_000, gt=0)
    # None: as many as the store's last release, while they are half to twice as large as wished; else by shard_bytes
    num_shards: int | None = Field(None, gt=0)
    blur: list[str] = ["face"]  # labels of the screening's detectors; what they found is made unrecognisable
    seed: int = 0

    @field_validator("blur")
    @classmethod
    def _labels_come_with_boxes(cls, labels: list[str]) -> list[str]:
        for label in labels:
            if label not in BOXED:
                raise ValueError(f"no detector gives boxes of {label!r}; those it can blur are {', '.join(BOXED)}")
        return labels


class Recipe(Section):
    """Everything that may change results, one section a stage."""

    extract_links: ExtractLinks
    download: Download
    index: Index = Index()
    screen: Screen
    embed: Embed
    dedup: Dedup
    cluster: Cluster
    retrieve: Retrieve
    publish: Publish


class Spark(Section):
    """How Spark is started; ignored under ``spark-submit``, which brings its own."""

    master: str = "local[*]"
    driver_memory: str = "2g"
    options: dict[str, str] = {}  # any other Spark property


class EmbedWork(Section):
    """How embedding is shared out."""

    by: Literal["spark", "array"] = (
        "spark"  # array: python -m curation.descriptors.array STORE does it, on GPU machines
    )
    images_per_task: int = Field(4096, gt=0)  # what a kill may cost; also the rows of a file
    threads: int = Field(1, gt=0)  # of a Spark task: as many as spark.task.cpus


class ClusterWork(Section):
    """How k-means is shared out."""

    # of the driver, for training points, centroids and bounds; what needs more trains in Spark tasks, round by round
    memory_bytes: int = Field(2**31, gt=0)


class Runtime(Section):
    """How the work is done; no key here may change a result."""

    partitions: int = Field(4, gt=0)
    components: Literal["local", "spark"] = "local"  # where components are found: on the driver, or for huge graphs
    spark: Spark = Spark()
    download_threads: int = Field(16, gt=0, le=1024)  # URLs fetched at once by one task
    embed: EmbedWork = EmbedWork()
    cluster: ClusterWork = ClusterWork()
    resolve: dict[str, str] = {}  # host or *.suffix -> address:port asked in its place; the only way to a local one

    @field_validator("resolve")
    @classmethod
    def _resolve_is_readable(cls, resolve: dict[str, str]) -> dict[str, str]:
        return FetchOptions(resolve=resolve).resolve


class CurationConfig(Section):
    """A whole curation recipe file."""

    store: str
    release: str
    sources: Sources = Sources()
    recipe: Recipe
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _names_are_known(self) -> "CurationConfig":
        recipe, collections = self.recipe, set(self.sources.collections)
        for stage in ("dedup", "cluster", "retrieve"):
            model = getattr(recipe, stage).model
            if model not in recipe.embed.models:
                known = ", ".join(recipe.embed.models) or "none"
                raise ValueError(f"recipe.{stage}.model is {model!r}; the models of recipe.embed are {known}")
        stores = set(self.sources.stores)
        for key, names, there in (
            ("dedup.against", recipe.dedup.against, collections | stores),
            ("dedup.normalise.background", [n.background] if (n := recipe.dedup.normalise) else [], collections),
            ("retrieve.sets", [recipe.retrieve.collection(name) for name in recipe.retrieve.sets], collections),
        ):
            for name in names:
                if name not in there:
                    other = f" (or sources.stores.{name}=STORE)" if key == "dedup.against" else ""
                    raise ValueError(
                        f"recipe.{key} names {name!r}; add sources.collections.{name}=PATH{other} or remove it"
                    )
        for name, queries in recipe.retrieve.sets.items():
            if queries.method == "as_is" and (held := recipe.retrieve.collection(name)) in recipe.dedup.against:
                raise ValueError(
                    f"recipe.retrieve.sets.{name} takes {held!r} as it is, and recipe.dedup.against keeps its copies "
                    "out; name it in one of the two"
                )
        if BLOCKED_DOMAINS in self.sources.lists:
            raise ValueError(f"sources.lists.{BLOCKED_DOMAINS}: the recipe's own rules bear this name; choose another")
        if unfit := sorted(name for name in collections | stores if "@" in name):
            raise ValueError(f"the name {unfit[0]!r} holds an @, which marks other stores' images; choose another")
        images = set(self.sources.images)
        taken = (collections & images) | (stores & (collections | images))
        for name in sorted(taken | ({"store", POOL} & (collections | images | stores))):
            raise ValueError(f"the name {name!r} is taken; give the images and each collection names of their own")
        return self
