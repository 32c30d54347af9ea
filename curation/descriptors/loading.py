"""The embedder that a configuration names."""

from curation.descriptors.base import Embedder, EmbedderSpec


def load_embedder(spec: EmbedderSpec) -> Embedder:
    """Make the embedder that a specification names; imports torch only for a trained one.

    Raises:
        ValueError: the weights are missing, have another hash, or do not fit the model.
    """
    if spec.adapter == "classical_copy":
        from curation.descriptors.classical_copy import ClassicalCopy

        return ClassicalCopy()
    if spec.adapter == "classical_scene":
        from curation.descriptors.classical_scene import ClassicalScene

        return ClassicalScene()
    if spec.adapter == "copy_network":
        from curation.descriptors.copy_network import load_copy_network

        return load_copy_network().with_passes(spec.precision, spec.batch_size)
    if spec.adapter == "torchscript":
        from curation.descriptors.torchscript import load_torchscript

        return load_torchscript(spec)
    if spec.adapter == "dinov2":
        from curation.descriptors.dinov2 import load_dinov2

        return load_dinov2(spec)
    if spec.adapter == "huggingface":
        from curation.descriptors.huggingface import load_huggingface

        return load_huggingface(spec)
    from curation.descriptors.timm_model import load_timm

    return load_timm(spec)
