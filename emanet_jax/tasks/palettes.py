"""Colours: the class tables of the data sets (name to RGB, in the order of the ids), colour maps.

The functions map values (h, w, k) to RGB (h, w, 3) in 0..255. Black is left to pixels without a
label, except where a data set's own colours have it.
"""

import numpy as np

Palette = dict[str, tuple[int, int, int]]

NYU13: Palette = {
    "bed": (61, 99, 181),
    "books": (229, 158, 62),
    "ceiling": (222, 222, 240),
    "chair": (178, 56, 60),
    "floor": (142, 110, 83),
    "furniture": (112, 156, 88),
    "objects": (232, 209, 75),
    "picture": (205, 105, 180),
    "sofa": (46, 150, 160),
    "table": (176, 128, 48),
    "tv": (54, 48, 70),
    "wall": (170, 178, 186),
    "window": (124, 198, 240),
}

# Names as the data set spells them.
NYU40: Palette = {
    "wall": (170, 178, 186),
    "floor": (142, 110, 83),
    "cabinet": (112, 156, 88),
    "bed": (61, 99, 181),
    "chair": (178, 56, 60),
    "sofa": (46, 150, 160),
    "table": (176, 128, 48),
    "door": (30, 30, 255),
    "window": (124, 198, 240),
    "bookshelf": (30, 255, 30),
    "picture": (205, 105, 180),
    "counter": (255, 48, 255),
    "blinds": (30, 255, 165),
    "desk": (111, 30, 174),
    "shelves": (255, 30, 30),
    "curtain": (201, 255, 30),
    "dresser": (30, 255, 246),
    "pillow": (255, 30, 129),
    "mirror": (246, 255, 192),
    "floor mat": (48, 174, 30),
    "clothes": (255, 165, 174),
    "ceiling": (222, 222, 240),
    "books": (229, 158, 62),
    "refridgerator": (30, 75, 48),
    "television": (54, 48, 70),
    "paper": (57, 111, 255),
    "towel": (93, 30, 102),
    "shower curtain": (192, 174, 255),
    "box": (183, 255, 129),
    "whiteboard": (210, 120, 255),
    "person": (255, 120, 75),
    "night stand": (228, 30, 174),
    "toilet": (102, 30, 48),
    "sink": (156, 111, 138),
    "lamp": (30, 192, 147),
    "bathtub": (246, 192, 147),
    "bag": (183, 246, 228),
    "otherstructure": (165, 57, 255),
    "otherfurniture": (138, 165, 30),
    "otherprop": (232, 209, 75),
}

CITYSCAPES19: Palette = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}

CITYSCAPES7: Palette = {
    "flat": (128, 64, 128),
    "construction": (70, 70, 70),
    "object": (153, 153, 153),
    "nature": (107, 142, 35),
    "sky": (70, 130, 180),
    "human": (220, 20, 60),
    "vehicle": (0, 0, 142),
}

PASCAL21: Palette = {
    "background": (0, 0, 0),
    "aeroplane": (128, 0, 0),
    "bicycle": (0, 128, 0),
    "bird": (128, 128, 0),
    "boat": (0, 0, 128),
    "bottle": (128, 0, 128),
    "bus": (0, 128, 128),
    "car": (128, 128, 128),
    "cat": (64, 0, 0),
    "chair": (192, 0, 0),
    "cow": (64, 128, 0),
    "diningtable": (192, 128, 0),
    "dog": (64, 0, 128),
    "horse": (192, 0, 128),
    "motorbike": (64, 128, 128),
    "person": (192, 128, 128),
    "pottedplant": (0, 64, 0),
    "sheep": (128, 64, 0),
    "sofa": (0, 192, 0),
    "train": (128, 192, 0),
    "tvmonitor": (0, 64, 128),
}

PARTS7: Palette = {
    "background": (64, 64, 72),
    "head": (232, 209, 75),
    "torso": (178, 56, 60),
    "upper arm": (61, 99, 181),
    "lower arm": (124, 198, 240),
    "upper leg": (64, 140, 72),
    "lower leg": (160, 214, 120),
}


def class_colours(values: np.ndarray, palette: Palette) -> np.ndarray:
    """Class ids in the colours of a table."""
    colours = np.array(list(palette.values()), np.uint8)
    return colours[np.minimum(values[..., 0].astype(np.int64), len(colours) - 1)]


def grey(values: np.ndarray) -> np.ndarray:
    """0 to 1 as dark grey to white."""
    return np.repeat(48 + 207 * np.clip(values, 0.0, 1.0), 3, axis=-1)


def colour_map(values: np.ndarray, limit: float) -> np.ndarray:
    """0 to `limit` from yellow to violet."""
    import matplotlib  # only where pictures are made

    scaled = np.clip(values[..., 0] / limit, 0, 1)
    return matplotlib.colormaps["viridis_r"](scaled, bytes=True)[..., :3]


def axes(values: np.ndarray) -> np.ndarray:
    """Unit vectors by viewer-facing axes: right is red, up is green, to the camera is blue."""
    return np.clip(127.5 * (1 + values * np.array([1, -1, -1])), 0, 255)
