# Synapse multi-organ as in the survey (arXiv 2312.05391), 8 organs. The folder, `data/synapse` or
# the environment variable SYNAPSE, holds img_dir/{train,val}/*.jpg and ann_dir/{train,val}/*.png as
# MMSegmentation's tools/dataset_converters/synapse.py writes them. Get it from synapse.org
# (syn3193805, registration).
#
# From the survey's own code (YilmazKadir/Segmentation_Losses): axial slices of 512 x 512, 2210 to
# train on, 1567 to validate; one channel in [0, 1]; turns by a multiple of 90 degrees, by up to 20
# degrees and mirroring, each for every second slice; batches of 2; the background is ignored, so
# that false alarms outside the organs cost nothing, in training nor in the score.
# Differs: the code replaces a slice without organ by one drawn at random, in validation too; here
# it stays and counts for nothing. The turns by 90 degrees are left out: MMSegmentation has them in
# RandomRotFlip alone, whose rotation labels the corners as class 0.
# Not stated: what the published table was computed from, slices or volumes.
#
# To train the background as a class: "background" in front of classes, its colour in front of
# palette, reduce_zero_label=False, and num_classes=9 in the model.

data_root = __import__("os").environ.get("SYNAPSE", "data/synapse")
load = dict(type="LoadImageFromFile", color_type="grayscale")
annotations = dict(type="mmseg.LoadAnnotations")
pack = dict(type="mmseg.PackSegInputs")

data_preprocessor = dict(
    _scope_="mmseg",
    type="SegDataPreProcessor",
    mean=[0.0],
    std=[255.0],
    size=(512, 512),
    pad_val=0,
    seg_pad_val=255,
)
dataset = dict(
    _scope_="mmseg",
    type="BaseSegDataset",
    metainfo=dict(
        classes=(
            *("aorta", "gallbladder", "left_kidney", "right_kidney"),
            *("liver", "pancreas", "spleen", "stomach"),
        ),
        palette=[
            *([0, 0, 255], [0, 255, 0], [255, 0, 0], [0, 255, 255]),
            *([255, 0, 255], [255, 255, 0], [60, 255, 255], [240, 240, 240]),
        ],
    ),
    data_root=data_root,
    img_suffix=".jpg",
    seg_map_suffix=".png",
    reduce_zero_label=True,
)
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(_scope_="mmseg", type="DefaultSampler", shuffle=True),
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="img_dir/train", seg_map_path="ann_dir/train"),
        pipeline=[
            load,
            annotations,
            dict(type="mmseg.RandomRotate", prob=0.5, degree=20, pad_val=0, seg_pad_val=255),
            dict(type="RandomFlip", prob=0.5),
            pack,
        ],
    ),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(_scope_="mmseg", type="DefaultSampler", shuffle=False),
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="img_dir/val", seg_map_path="ann_dir/val"),
        pipeline=[load, annotations, pack],
    ),
)
val_evaluator = dict(_scope_="mmseg", type="IoUMetric", iou_metrics=["mIoU", "mDice"])
del load, annotations, pack, dataset
