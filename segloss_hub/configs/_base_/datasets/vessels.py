# CHASE_DB1: vessels of the eye ground, 999 x 960 (Fraz et al., IEEE TBME 59(9), 2012). Not shipped.
# The folder, `data/chase_db1` or the environment variable CHASE_DB1, holds images/{train,val}/*.jpg
# and masks/{train,val}/*.png with 0 background, 1 vessel. CHASE_DB1 has no split of its own: keep
# the two eyes of a child on one side. Trained on crops at half size, scored at full size.

data_root = __import__("os").environ.get("CHASE_DB1", "data/chase_db1")
half = (500, 480)  # width, height
load = dict(type="LoadImageFromFile", color_type="grayscale")
resize = dict(type="mmseg.Resize", scale=half, keep_ratio=False)
annotations = dict(type="mmseg.LoadAnnotations")
pack = dict(type="mmseg.PackSegInputs")

data_preprocessor = dict(
    _scope_="mmseg",
    type="SegDataPreProcessor",
    mean=[59.0],  # of the training images, in grey
    std=[46.5],
    size=(128, 128),
    pad_val=0,
    seg_pad_val=255,
    test_cfg=dict(size_divisor=4),
)
dataset = dict(
    _scope_="mmseg",
    type="BaseSegDataset",
    metainfo=dict(classes=("background", "vessel"), palette=[[0, 0, 0], [230, 159, 0]]),
    data_root=data_root,
    img_suffix=".jpg",
    seg_map_suffix=".png",
    reduce_zero_label=False,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(_scope_="mmseg", type="InfiniteSampler", shuffle=True),
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="images/train", seg_map_path="masks/train"),
        pipeline=[
            load,
            annotations,
            resize,
            dict(type="mmseg.RandomCrop", crop_size=(128, 128), cat_max_ratio=0.97),
            dict(type="RandomFlip", prob=0.5),
            pack,
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(_scope_="mmseg", type="DefaultSampler", shuffle=False),
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="images/val", seg_map_path="masks/val"),
        pipeline=[load, resize, annotations, pack],
    ),
)
val_evaluator = dict(_scope_="mmseg", type="IoUMetric", iou_metrics=["mIoU", "mDice"])
del half, load, resize, annotations, pack, dataset
