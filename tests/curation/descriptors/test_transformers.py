"""DINOv2's weights, ours and Hugging Face's folders give what the networks they come from give."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from curation.descriptors.base import EmbedderSpec
from curation.descriptors.huggingface import upstream_names
from curation.descriptors.loading import load_embedder
from training.config import Architecture
from training.models.vit import VisionTransformer

KINDS = {
    "plain": {},
    "registers": {"num_register_tokens": 4},
    "swiglu": {"ffn": "swiglu"},
}


def backbone(kind):
    torch.manual_seed(0)
    made = VisionTransformer(Architecture(arch="vit_nano", patch_size=8, image_size=64, layer_scale=1.0, **KINDS[kind]))
    with torch.no_grad():  # so that a name that is lost or mixed up shows
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made.eval()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pictures(embedder):
    generator = np.random.default_rng(0)
    made = [Image.fromarray(generator.integers(0, 255, (90, 120, 3), np.uint8)) for _ in range(3)]
    return np.stack([embedder.preprocess(picture) for picture in made])


def expected(network, embedder, batch):
    with torch.no_grad():
        found = network(embedder.pixels(batch)).cls_token.numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("size", [64, 96, 48])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_of_ours_at_their_size_and_interpolated(tmp_path, kind, size):
    network = backbone(kind)
    path = tmp_path / "teacher_backbone.safetensors"
    save_file(network.state_dict(), path)
    embedder = load_embedder(EmbedderSpec(adapter="dinov2", weights=str(path), sha256=sha256(path), size=size))
    batch = pictures(embedder)
    np.testing.assert_allclose(embedder.embed(batch), expected(network, embedder, batch), atol=2e-5)


def test_a_pytorch_file_of_tensors_with_chunked_blocks(tmp_path):
    network = backbone("plain")
    state = {
        n.replace("blocks.", "blocks.0.") if n.startswith("blocks.") else n: v for n, v in network.state_dict().items()
    }
    path = tmp_path / "pretrain.pth"
    torch.save(state, path)
    embedder = load_embedder(EmbedderSpec(adapter="dinov2", weights=str(path), sha256=sha256(path), size=64))
    batch = pictures(embedder)
    np.testing.assert_allclose(embedder.embed(batch), expected(network, embedder, batch), atol=2e-5)


class Hostile:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pytorch_file_of_more_than_tensors_is_not_unpickled(tmp_path, capsys):
    path = tmp_path / "hostile.pth"
    torch.save({"patch_embed.proj.weight": Hostile()}, path)
    with pytest.raises(ValueError, match="tensors only"):
        load_embedder(EmbedderSpec(adapter="dinov2", weights=str(path), sha256=sha256(path)))
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "keys", "message"),
    [
        (lambda state: state.pop("pos_embed"), {}, "no vision transformer"),
        (lambda state: state.pop("norm.bias"), {}, "do not fit a transformer of width 192 and depth 6"),
        (dict.copy, {"size": 100}, "no multiple of the patch .* try 96"),
        (dict.copy, {"num_heads": 5}, "num_heads = 5 does not divide"),
        (
            lambda state: state.update({"patch_embed.proj.weight": torch.zeros(192, 192)}),
            {},
            "of 4 dimensions .* of 2;",
        ),
        (
            lambda state: state.update({"patch_embed.proj.weight": torch.zeros(32, 3, 8, 8)}),
            {},
            "32, is less .* num_heads",
        ),
        (lambda state: state.update({"pos_embed": torch.zeros(1, 16, 192)}), {}, "15 patches, which are no square"),
        (lambda state: state.update({"blocks.x.norm1.bias": torch.zeros(1)}), {}, "do not fit .*blocks.x.norm1.bias"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, change, keys, message):
    state = backbone("plain").state_dict()
    change(state)
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    spec = EmbedderSpec(adapter="dinov2", weights=str(path), sha256=sha256(path), **({"size": 64} | keys))
    with pytest.raises(ValueError, match=message):
        load_embedder(spec)


def as_hugging_face(network, folder, kind):
    """A folder as the transformers library writes one of DINOv2."""
    state = {}
    for name, tensor in network.state_dict().items():
        block, _, rest = name.removeprefix("blocks.").partition(".")
        if name == "pos_embed":
            state["embeddings.position_embeddings"] = tensor
        elif name in ("cls_token", "mask_token", "register_tokens"):
            state[f"embeddings.{name}"] = tensor
        elif name.startswith("patch_embed.proj."):
            state[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = tensor
        elif name.startswith("norm."):
            state[name.replace("norm", "layernorm")] = tensor
        elif rest.startswith("attn.qkv."):
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[f"encoder.layer.{block}.attention.attention.{part}.{rest.rpartition('.')[2]}"] = (
                    piece.contiguous()
                )
        else:
            for ours, theirs in (
                ("attn.proj", "attention.output.dense"),
                ("ls1.gamma", "layer_scale1.lambda1"),
                ("ls2.gamma", "layer_scale2.lambda1"),
                ("mlp.w12", "mlp.weights_in"),
                ("mlp.w3", "mlp.weights_out"),
            ):
                rest = rest.replace(ours, theirs)
            state[f"encoder.layer.{block}.{rest}"] = tensor
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    config = {"model_type": "dinov2_with_registers" if kind == "registers" else "dinov2", "num_attention_heads": 3}
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu", "layer_norm_eps": 1e-6}))
    return EmbedderSpec(
        adapter="huggingface", weights=str(folder), sha256=sha256(folder / "model.safetensors"), size=64
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_hugging_face_folder(tmp_path, kind):
    network = backbone(kind)
    embedder = load_embedder(as_hugging_face(network, tmp_path / "model", kind))
    batch = pictures(embedder)
    np.testing.assert_allclose(embedder.embed(batch), expected(network, embedder, batch), atol=2e-5)


def test_the_digest_of_a_folder_follows_its_settings(tmp_path):
    spec = as_hugging_face(backbone("plain"), tmp_path / "model", "plain")
    before, config = load_embedder(spec).digest, tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"num_attention_heads": 3', '"num_attention_heads": 6'))
    assert load_embedder(spec).digest != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{}", "model_type is None"),
        ('{"model_type": ["vit"]}', r"model_type is \['vit'\]"),
        ("[]", "holds no settings"),
        ("{", "cannot be read"),
        ('{"model_type": "vit", "num_attention_heads": "3"}', "num_attention_heads is '3'"),
        ('{"model_type": "vit", "layer_norm_eps": null}', "layer_norm_eps is None"),
    ],
)
def test_a_folder_of_another_kind(tmp_path, settings, message):
    spec = as_hugging_face(backbone("plain"), tmp_path / "model", "plain")
    (tmp_path / "model" / "config.json").write_text(settings)
    with pytest.raises(ValueError, match=message):
        load_embedder(spec)
    with pytest.raises(ValueError, match="which no model of"):
        upstream_names("x", {"encoder.layer.0.nonsense": torch.zeros(1)})


def test_vit_huge_16_is_timm_s_huge_with_another_patch(tmp_path):
    import timm

    small = {"patch_size": 16, "depth": 1}  # one block of it: 20 million weights
    network = timm.create_model("vit_huge_patch14_224", num_classes=0, **small).eval()
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    spec = {"adapter": "timm", "model": "vit_huge_patch14_224", "weights": str(path), "sha256": sha256(path)}
    embedder = load_embedder(EmbedderSpec(**spec, options=small, batch_size=2))
    batch = pictures(embedder)
    with torch.no_grad():
        vectors = network(embedder.pixels(batch)).numpy()
    np.testing.assert_allclose(
        embedder.embed(batch), vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=2e-5
    )
    with pytest.raises(ValueError, match="cannot be built with options"):
        load_embedder(EmbedderSpec(**spec, options={"patches": 16}))


@pytest.fixture
def timm_folder(tmp_path):
    """A folder as timm writes one; gives a function that sets its settings and loads it."""
    import timm

    folder = tmp_path / "timm"
    folder.mkdir()
    save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), folder / "model.safetensors")

    def load(settings, preprocessor=None, **keys):
        (folder / "config.json").write_text(json.dumps({"architecture": "resnet10t", **settings}))
        if preprocessor is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        hashed = {"weights": str(folder), "sha256": sha256(folder / "model.safetensors")}
        return load_embedder(EmbedderSpec(**{"adapter": "huggingface", **hashed, "size": 64} | keys))

    return load


def test_a_folder_s_settings_run_no_code_and_load_no_other_weights(timm_folder, tmp_path, capsys):
    evil = tmp_path / "evil.pth"
    torch.save({"state_dict": Hostile()}, evil)
    for name in (
        "checkpoint_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "cache_dir",
        "features_only",
    ):
        for load in (
            lambda name=name: timm_folder({"model_args": {name: str(evil)}}),
            lambda name=name: timm_folder({}, options={name: str(evil)}),
        ):
            with pytest.raises(ValueError, match=f"option {name} = .* remove it"):
                load()
    assert "code ran" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"option act_layer = .* is not read"):
        timm_folder({"model_args": {"act_layer": {"a": 1}}})


def test_model_args_that_say_nothing_or_the_defaults(timm_folder):
    found = {timm_folder({"model_args": args}).dim for args in (None, {}, {"num_classes": 1000, "global_pool": None})}
    assert found == {512}


@pytest.mark.parametrize("settings", [{"architecture": 7}, {"architecture": ["resnet10t"]}, {"model_args": [1]}])
def test_a_timm_folder_s_settings_of_another_type(timm_folder, settings):
    with pytest.raises(ValueError, match=r"config.json: architecture is .* a name and a mapping"):
        timm_folder(settings)


DINOV2 = {  # as its folders have it
    "crop_size": {"height": 64, "width": 64},
    "do_center_crop": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 73},
}
VIT = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "size": {"height": 64, "width": 64}}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
TIMM = {**HALF, "input_size": [3, 64, 64], "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "center"}


@pytest.mark.parametrize(
    ("settings", "preprocessor", "right", "message"),
    [
        (
            {},
            DINOV2,
            {"crop_pct": 0.875},
            r"preprocessor_config.json says of pictures crop_pct: 0.87.* Set crop_pct as",
        ),
        ({}, VIT, {**HALF, "resize": "squash"}, r"interpolation: bilinear, size: 64|mean: \[0.5, 0.5, 0.5\]"),
        ({}, {**VIT, "do_normalize": False}, {"mean": [0.0] * 3, "std": [1.0] * 3, "resize": "squash"}, "mean: .0.0"),
        ({"pretrained_cfg": TIMM}, None, {**HALF, "crop_pct": 0.9}, r"config.json says of pictures mean: \[0.5"),
        (TIMM, None, {**HALF, "crop_pct": 0.9}, r"config.json says of pictures mean: \[0.5"),
        (
            {"pretrained_cfg": {"crop_mode": "squash", "interpolation": "bicubic"}},
            None,
            {"resize": "squash", "interpolation": "bicubic"},
            "resize: squash.* Set resize as",
        ),
    ],
)
def test_a_specification_that_contradicts_the_folder_is_refused(timm_folder, settings, preprocessor, right, message):
    timm_folder(settings, preprocessor, **right)
    with pytest.raises(ValueError, match=message):
        timm_folder(settings, preprocessor)
    if "input_size" in str(settings) or "crop_size" in str(preprocessor):
        with pytest.raises(ValueError, match=r"size: 64; .* has size: 96.* Set size as"):
            timm_folder(settings, preprocessor, **right, **{"size": 96})


@pytest.mark.parametrize(
    ("settings", "preprocessor"),
    [
        ({"pretrained_cfg": {"crop_mode": "border"}}, None),
        ({"pretrained_cfg": {"input_size": [3, 64, 32]}}, None),
        ({"pretrained_cfg": None}, None),
        ({"pretrained_cfg": {"mean": 0.5}}, None),
        ({}, {"size": {"shortest_edge": 0}}),
        ({}, {"size": "large"}),
        ({}, {"image_mean": ["a", "b", "c"]}),
    ],
)
def test_a_folder_s_preparation_in_another_form(timm_folder, settings, preprocessor):
    with pytest.raises(ValueError, match=r"config.json does not say in a form that is read"):
        timm_folder(settings, preprocessor)


def test_the_tag_of_a_timm_model_states_its_preparation(tmp_path):
    import timm

    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), path)
    spec = {"adapter": "timm", "weights": str(path), "sha256": sha256(path), "size": 176}
    load_embedder(EmbedderSpec(**spec, model="resnet10t"))
    load_embedder(EmbedderSpec(**spec, model="resnet10t.c3_in1k", crop_pct=0.875))
    with pytest.raises(ValueError, match="without its tag"):
        load_embedder(EmbedderSpec(**spec, model="resnet10t.c3_in1k"))
    with pytest.raises(ValueError, match="cannot be built"):
        load_embedder(EmbedderSpec(**spec, model="resnet10t.of_nobody"))
