# The survey's U-Net (arXiv 2312.05391): five levels of 64 to 1024 channels, two convolutions each,
# transposed convolutions upwards, one 1 x 1 convolution on top, PyTorch's initialisation, not
# pretrained. Differs: MMSegmentation normalises after a transposed convolution, too.
# The survey's code has a residual U-Net as well, which MMSegmentation has no counterpart of.
model = dict(
    _scope_="mmseg",
    type="EncoderDecoder",
    backbone=dict(
        type="UNet",
        in_channels=3,
        base_channels=64,
        num_stages=5,
        strides=(1, 1, 1, 1, 1),
        enc_num_convs=(2, 2, 2, 2, 2),
        dec_num_convs=(2, 2, 2, 2),
        downsamples=(True, True, True, True),
        enc_dilations=(1, 1, 1, 1, 1),
        dec_dilations=(1, 1, 1, 1),
        upsample_cfg=dict(type="DeconvModule", kernel_size=2),
        norm_cfg=dict(type="BN"),
        init_cfg=[],
    ),
    decode_head=dict(
        type="FCNHead",
        in_channels=64,
        in_index=4,
        channels=64,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=19,
        align_corners=False,
        loss_decode=dict(type="segloss_hub.HubLoss", name="cross-entropy + dice"),
        init_cfg=[],
    ),
    test_cfg=dict(mode="whole"),
)
