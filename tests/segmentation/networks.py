"""Small networks of the published classes with random weights, in the published files' formats."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest


def small_sam(image_size: int = 64):
    """A `segment_anything` Sam of a few thousand parameters; an entry for its model registry."""
    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    width, grid = 32, image_size // 16
    return Sam(
        image_encoder=ImageEncoderViT(
            depth=2,
            embed_dim=16,
            img_size=image_size,
            mlp_ratio=2,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=2,
            patch_size=16,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=[1],
            window_size=2,
            out_chans=width,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=width, image_embedding_size=(grid, grid), input_image_size=(image_size, image_size), mask_in_chans=4
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=32, num_heads=4),
            transformer_dim=width,
            iou_head_depth=3,
            iou_head_hidden_dim=16,
        ),
    ).eval()


def write_sam(path: Path) -> Path:
    """A SAM checkpoint: a state dict of tensors."""
    import torch

    torch.manual_seed(0)
    network = small_sam()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)  # so that masks depend on what they are made from
    torch.save(network.state_dict(), path)
    return path


def write_sam2(folder: Path, image_size: int = 128) -> Path:
    """A SAM 2 folder: configurations and safetensors, as on the hub."""
    import torch
    import transformers
    from transformers import Sam2VideoConfig, Sam2VideoModel, Sam2VideoProcessor, Sam2VideoVideoProcessor

    images = getattr(transformers, "Sam2ImageProcessor", None) or transformers.Sam2ImageProcessorFast  # before 5.0
    width, grid = 128, image_size // 16  # the memory's width is fixed at 64 in the network's code
    config = Sam2VideoConfig(
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [image_size, image_size],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [8, 4, 4, 2],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[4 * grid, 4 * grid], [2 * grid, 2 * grid], [grid, grid]],
            "fpn_hidden_size": width,
        },
        prompt_encoder_config={"hidden_size": width, "image_size": image_size, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 32,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 16,
        },
        image_size=image_size,
        memory_attention_hidden_size=width,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[grid, grid],
        memory_encoder_hidden_size=width,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=32,
    )
    torch.manual_seed(0)
    network = Sam2VideoModel(config).eval()
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
        if name.startswith("mask_decoder.pred_obj_score_head") and name.endswith("proj_out.bias"):
            torch.nn.init.constant_(parameter, 5.0)  # a random network should see the object, not lose it by chance
    network.save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    Sam2VideoProcessor(
        images(size=size, mask_size={"height": 4 * grid, "width": 4 * grid}),
        Sam2VideoVideoProcessor(size=size),
        target_size=image_size,
    ).save_pretrained(folder)
    return folder


def write_grounding_dino(folder: Path) -> Path:
    """A Grounding DINO folder: configurations, vocabulary and safetensors, as on the hub."""
    import torch
    from transformers import (
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
    )

    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "the", "a", "statue", "chair"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
            "out_features": ["stage2", "stage3", "stage4"],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": len(words),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,  # with one there is nothing to tie, which transformers refuses
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=32,  # its normalisation wants groups of 32
        max_text_len=16,
    )
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).eval().save_pretrained(folder)
    GroundingDinoProcessor(
        GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 192}),
        BertTokenizer(str(folder / "vocab.txt")),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sam_file(tmp_path_factory) -> Path:
    """A SAM checkpoint for the model "small", which is added to the package's registry."""
    package = pytest.importorskip("segment_anything", reason="the extra [sam] is not installed")
    package.sam_model_registry["small"] = small_sam
    return write_sam(tmp_path_factory.mktemp("sam") / "sam_small.pth")


@pytest.fixture(scope="session")
def sam2_folder(tmp_path_factory) -> Path:
    """A SAM 2 model folder."""
    pytest.importorskip("transformers", reason="the extra [sam2] is not installed")
    return write_sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="session")
def grounding_dino_folder(tmp_path_factory) -> Path:
    """A Grounding DINO model folder."""
    pytest.importorskip("transformers", reason="the extra [sam2] is not installed")
    return write_grounding_dino(tmp_path_factory.mktemp("grounding_dino"))
