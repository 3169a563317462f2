"""The reference's names of our parameters, as tables of rules.

A parameter of ours has a path, say `backbone/stage2_0/branch_0_1/conv_norm1/conv/kernel`; the rules
rewrite it step by step into the reference's name, `backbone.stage2.0.branches.0.1.conv1.weight`.
"""

import re
from collections.abc import Mapping

Rules = tuple[tuple[str, str], ...]  # (regular expression, replacement), applied in turn

HRNET: Rules = (
    (r"stem(\d)/(conv|bn)", r"\2\1"),
    (r"layer1_", "layer1/"),
    (r"transition(\d)_(\d)", r"transition\1/\2"),
    (r"downsample(\d)_(\d)", r"transition\1/\2/0"),
    (r"stage(\d)_(\d)", r"stage\1/\2"),
    (r"branch_(\d)_(\d)", r"branches/\1/\2"),
    (r"up_(\d)_(\d)", r"fuse_layers/\1/\2"),
    (r"down_(\d)_(\d)_(\d)", r"fuse_layers/\1/\2/\3"),
)

RESNET: Rules = (
    (r"\bstem/(conv|bn)", r"\g<1>1"),
    (r"group(\d)_(\d)", r"layer\1/\2"),
)

SWIN: Rules = (  # the last norm is beside the layers, in which stages and patch mergings alternate
    (r"\bembed/", "0/0/0/"),
    (r"\bembed_norm/", "0/0/2/"),
    *((rf"\bwindows{stage}_(\d+)/", rf"0/{2 * stage - 1}/\1/") for stage in (1, 2, 3, 4)),
    *((rf"\bmerge{stage}/", f"0/{2 * stage - 2}/") for stage in (2, 3, 4)),
    (r"\blast_norm/", "1/"),
    (r"\bqkv_bias$", "qkv/bias"),
    (r"\bposition1/", "cpb_mlp/0/"),
    (r"\bposition2/", "cpb_mlp/2/"),
    (r"\bmlp1/", "mlp/0/"),
    (r"\bmlp2/", "mlp/3/"),
)

DEEPLAB: Rules = (
    (r"^head_(\w+)/near/", r"heads/\1/0/convs/0/"),
    *((rf"^head_(\w+)/dilated{12 * i}/", rf"heads/\1/0/convs/{i}/") for i in (1, 2, 3)),
    (r"^head_(\w+)/everywhere/conv/", r"heads/\1/0/convs/4/1/"),
    (r"^head_(\w+)/everywhere/bn/", r"heads/\1/0/convs/4/2/"),
    (r"^head_(\w+)/join/", r"heads/\1/0/project/"),
    (r"^head_(\w+)/refine/conv/", r"heads/\1/1/"),
    (r"^head_(\w+)/refine/bn/", r"heads/\1/2/"),
    (r"^head_(\w+)/output/", r"heads/\1/4/"),
)

SEGNET: Rules = (  # "block": the first unit of a scale; "conv_block": one more or two
    (r"\b(en|de)coder/scale_(\d)/conv_norm1/", r"\1coder_block/\2/"),
    (r"\b(en|de)coder/scale_([01])/conv_norm2/", r"conv_block_\1c/\2/"),
    (r"\b(en|de)coder/scale_(\d)/conv_norm2/", r"conv_block_\1c/\2/0/"),
    (r"\b(en|de)coder/scale_(\d)/conv_norm3/", r"conv_block_\1c/\2/1/"),
)

BLOCKS: Rules = (
    (r"conv_norm(\d)/(conv|bn)", r"\2\1"),
    (r"shortcut", "downsample"),
    (r"/conv/", "/0/"),
    (r"/bn/", "/1/"),
)

LEAVES: Rules = (
    (r"\b(kernel|scale)$", "weight"),
    (r"\b(mean|var)$", r"running_\1"),
    (r"\bsaliency\b", "sal"),
    (r"/", "."),
)

# Names in files that no network of ours needs: ResNet's unused classifier, and arrays that our Swin
# computes.
_SWIN_BUFFERS = r".*\.(attn\.relative_(coords_table|position_index)|attn_mask)"
SURPLUS_BY_DESIGN = rf"(backbone|backbones\.\w+)\.fc\.(weight|bias)|{_SWIN_BUFFERS}"

_HRNET_BACKBONE = r"^backbone/(?=stem\d|layer1_|transition|downsample|stage)"  # no other's

# Parts that networks share.
_HEADS: Rules = (
    (r"^head_(\w+)/fuse", r"heads/\1/last_layer"),
    (r"^head_(\w+)/predict", r"heads/\1/last_layer/3"),
    (r"^head_(\w+)/(context|project)", r"heads/\1/\2"),  # SegNet's, which has no reference
)
_REFINED_HEADS: Rules = (
    (r"^head_(\w+)/block_", r"heads/\1/"),
    (r"^head_(\w+)/predict", r"heads/\1/2"),
)
_SINGLE_SCALE: Rules = (
    (_HRNET_BACKBONE, "backbone/0/"),
    (r"^fuse", "backbone/1/last_layer"),
    (r"^initial_(\w+)/block_", r"initial_task_prediction_heads/layers/\1/"),
    (r"^initial_(\w+)/predict", r"initial_task_prediction_heads/conv_out/\1"),
    *_REFINED_HEADS,
)
_SCALES: Rules = (
    (r"^(scale_\d)/refine_(\w+)_(\d)", r"\1/refinement/\2/\3"),
    (r"^(scale_\d)/predict_", r"\1/decoders/"),
    (r"^propagate_(\d)", r"fpm_scale_\1"),
    (r"/attend_", "/non_linear/"),
    (r"/share/", "/dimensionality_reduction/"),
    (r"/select_(\w+)/squeeze", r"/se/\1/squeeze/0"),
    (r"/select_(\w+)/excite", r"/se/\1/squeeze/2"),
)
_PAD: Rules = (  # a dot where BLOCKS' rule for units must not see /conv/
    (r"^distillation/to_", "multi_modal_distillation/to_"),
    (r"^distillation/(scale_\d)", r"distillation_\1"),
    (r"/to_(\w+)/from_(\w+)/value", r"/self_attention/\1/\2.conv"),
    (r"/to_(\w+)/from_(\w+)/gate", r"/self_attention/\1/\2/attention/0"),
)

# The networks on SegNet know NYUv2's tasks only, by number or by names of their own; other tasks
# keep our names. <task> becomes the number, [task] the network's name of the task.
_NUMBERED = ("semseg", "depth", "normals")
_RENAMED = {"semseg": "segmentation", "normals": "normal"}
_SEGNET_TASKS: Rules = (
    *((f"<{task}>", f"{i}") for i, task in enumerate(_NUMBERED)),
    *((rf"\[{ours}\]", theirs) for ours, theirs in _RENAMED.items()),
    (r"[\[\]<>]", ""),
)
_SEGNET_DISTILLATION = r"^(?:latent/|decoded_)distillation/to_(\w+)/from_(\w+)"
_ON_SEGNET: Rules = (
    (r"^backbone/(?=(en|de)coder/)", ""),
    (r"^decoder_(\w+)/(?=scale_)", r"decoders/<\1>/decoder/"),
    (rf"{_SEGNET_DISTILLATION}/value", r"multi_modal_distillation/self_attention/[\1]/[\2].conv"),
    (
        rf"{_SEGNET_DISTILLATION}/gate",
        r"multi_modal_distillation/self_attention/[\1]/[\2]/attention/0",
    ),
    *(
        (rf"^head_{task}/(?=context|project)", f"pred_task{i}/")
        for i, task in enumerate(_NUMBERED, start=1)
    ),
    (r"^head_(\w+)/(?=context|project)", r"pred_task/\1/"),
    (r"^(pred_task.*)/context/", r"\1/0/"),
    (r"^(pred_task.*)/project/", r"\1/1/"),
)
_MTAN: Rules = (
    *_ON_SEGNET,
    *(
        (rf"^(en|de)coder_mask_(\d)_(\w+)/{ours}/", rf"\1coder_att/<\3>/\2/{theirs}/")
        for ours, theirs in {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}.items()
    ),
    (r"^down_(\d)/", r"encoder_block_att/\1/"),
    (r"^up_(\d)/", r"decoder_block_att/\1/"),
)
_ATI: Rules = (
    *_MTAN,
    (r"^((en|de)coder_(block_)?att|pred_task(\d|/))", r"_\1"),
    (r"^latent/narrow_(\w+)/", r"pred_task_init/[\1]/"),
    (r"^latent/broaden_(\w+)/", r"encode_task_preds/[\1]/"),
    *(
        (rf"\]/conv_norm{i}/{ours}/", f"]/{3 * i - 3 + offset}/")
        for i in (1, 2, 3)
        for offset, ours in enumerate(("conv", "bn"))
    ),
)


def _affinity_block(ours: str, theirs: str, fusion: str) -> Rules:
    return (
        (rf"^{ours}/in_(\w+)", rf"{theirs}/conv_in/\1"),
        (rf"^{ours}/affinity/value_(\w+)", rf"{theirs}/spatial_att/projection/\1"),
        (rf"^{ours}/affinity/fusion_(\w+)", rf"{theirs}/spatial_att/{fusion}/\1"),
        (rf"^{ours}/affinity/fusion", rf"{theirs}/spatial_att/{fusion}"),
        (rf"^{ours}/double_(\w+)", rf"{theirs}/conv_out/\1/0"),
        (rf"^{ours}/bn_(\w+)", rf"{theirs}/conv_out/\1/1"),
        (rf"^{ours}/out_(\w+)", rf"{theirs}/conv_out/\1/3"),
    )


MODEL_RULES: Mapping[str, Rules] = {
    "stl": ((r"^backbone_", "backbones/"), *_HEADS),
    "hps": _HEADS,
    "pad_net": (*_ON_SEGNET, *_SEGNET_TASKS, *_SINGLE_SCALE, *_PAD),
    "pap_net": (
        *_SINGLE_SCALE,
        (r"^distillation/in_", "affinity_learning_module.conv/"),
        (r"^distillation/weights_", "diffusion_module/weights/"),
    ),
    "ema_net": (
        *_SINGLE_SCALE,
        *_affinity_block("distillation", "affinity_learning_module", "fusion"),
    ),
    "mti_net": (*_SCALES, *_PAD, *_HEADS),
    "ema_net_ms": (
        *_SCALES,
        (r"^distillation/fuse_(\w+)", r"scale_fusion/\1/last_layer"),
        *_affinity_block("distillation/block", "ctal", "task_fusion"),
        *_REFINED_HEADS,
    ),
    "mtan": (*_MTAN, *_SEGNET_TASKS),
    "ati_net": (*_ATI, *_SEGNET_TASKS),
}

_SHARED: Rules = (*DEEPLAB, *HRNET, *RESNET, *SWIN, *SEGNET, *BLOCKS, *LEAVES)


def torch_name(path: str, model_name: str) -> str:
    """The reference's name of our parameter or statistic, `path` without its collection."""
    for pattern, replacement in (*MODEL_RULES[model_name], *_SHARED):
        path = re.sub(pattern, replacement, path)
    return path
