# Cityscapes as in the survey (arXiv 2312.05391), 19 classes. The folder, `data/cityscapes` or the
# environment variable CITYSCAPES, holds leftImg8bit/ and gtFine/ with the *_labelTrainIds.png that
# cityscapesscripts makes. Non-commercial; get it from cityscapes-dataset.com.
#
# From the survey's own code (YilmazKadir/Segmentation_Losses): 2975 images to train on, 500 to
# validate; resized to 512 x 512, not cropped; mirroring, colour shift, brightness and contrast at
# random, each for every second image (here: PhotoMetricDistortion, the nearest that
# MMSegmentation has); mean and deviation of ImageNet; batches of 2; void is ignored.
# Differs: the code scores at 512 x 512, MMSegmentation at the size of the labels.
# Not stated: what the published table was computed from, validation or test images.

data_root = __import__("os").environ.get("CITYSCAPES", "data/cityscapes")
load = dict(type="LoadImageFromFile")
annotations = dict(type="mmseg.LoadAnnotations")
resize = dict(type="mmseg.Resize", scale=(512, 512), keep_ratio=False)
pack = dict(type="mmseg.PackSegInputs")

data_preprocessor = dict(
    _scope_="mmseg",
    type="SegDataPreProcessor",
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    size=(512, 512),
    pad_val=0,
    seg_pad_val=255,
)
dataset = dict(_scope_="mmseg", type="CityscapesDataset", data_root=data_root)
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(_scope_="mmseg", type="DefaultSampler", shuffle=True),
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=[
            load,
            annotations,
            resize,
            dict(type="RandomFlip", prob=0.5),
            dict(type="mmseg.PhotoMetricDistortion"),
            pack,
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(_scope_="mmseg", type="DefaultSampler", shuffle=False),
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        pipeline=[load, resize, annotations, pack],
    ),
)
val_evaluator = dict(_scope_="mmseg", type="IoUMetric", iou_metrics=["mIoU"])
del load, annotations, resize, pack, dataset
