"""Named recipes, in the form of a config's section; pixels and factors are for 512 px.

`large` and `small` are the ranges of stages II and III, `celeba-test` those of the paper's test set
(CodeFormer, section 4.1). The published network was fine-tuned with `inpainting` and
`colorization`. `motion` and the strokes' sizes are this project's; `second_order` is Real-ESRGAN's.
"""

_LARGE = {
    "blur_sigma": (1.0, 15.0),
    "downsample": (4.0, 30.0),
    "noise": (0.0, 20.0),
    "jpeg_quality": (30, 80),
}
_SMALL = {
    "blur_sigma": (0.1, 10.0),
    "downsample": (1.0, 12.0),
    "noise": (0.0, 15.0),
    "jpeg_quality": (60, 100),
}

RECIPES = {
    "large": _LARGE,
    "small": _SMALL,
    "celeba-test": {
        "blur_sigma": (1.0, 15.0),
        "downsample": (1.0, 30.0),
        "noise": (0.0, 20.0),
        "jpeg_quality": (30, 90),
    },
    "motion": _SMALL | {"motion_blur": {"probability": 0.8, "length": (10.0, 60.0)}},
    "inpainting": {
        "kind": "clean",
        "mask": {
            "strokes": (1, 4),
            "corners": (4, 12),
            "width": (24.0, 80.0),
            "length": (20.0, 160.0),
            "turn": (48.0, 96.0),
        },
    },
    "colorization": _LARGE
    | {
        "colour_shift": {"probability": 0.3, "shift": 20.0},
        "gray": 0.01,
        "colour_jitter": {
            "probability": 0.3,
            "brightness": (0.5, 1.5),
            "contrast": (0.5, 1.5),
            "saturation": (0.0, 1.5),
            "hue": (-0.1, 0.1),
        },
    },
    # The published networks enlarge by 2 or 4.
    "second_order": {"kind": "second_order", "downsample": (2.0, 4.0)},
}
