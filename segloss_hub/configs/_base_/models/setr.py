# SETR-PUP on ViT-B/16: the nearest that MMSegmentation has to the survey's TransUNet (arXiv
# 2312.05391). Alike: the transformer (12 layers, 768 channels, 12 heads, patches of 16), four
# doublings upwards. Differs: TransUNet has a ResNet before the transformer and skips from it into
# the decoder, whose channels fall from 256 to 16.
# Not pretrained, as in the survey's code; whether the published table was, is not stated.
model = dict(
    _scope_="mmseg",
    type="EncoderDecoder",
    backbone=dict(
        type="VisionTransformer",
        img_size=(512, 512),
        patch_size=16,
        in_channels=3,
        embed_dims=768,
        num_layers=12,
        num_heads=12,
        mlp_ratio=4,
        out_indices=(11,),
        qkv_bias=True,
        drop_rate=0.1,
        with_cls_token=False,
        final_norm=True,
        norm_cfg=dict(type="LN", eps=1e-6),
        interpolate_mode="bilinear",
    ),
    decode_head=dict(
        type="SETRUPHead",
        in_channels=768,
        in_index=0,
        channels=256,
        num_convs=4,
        up_scale=2,
        kernel_size=3,
        dropout_ratio=0.0,
        num_classes=19,
        norm_cfg=dict(type="BN"),
        align_corners=False,
        loss_decode=dict(type="segloss_hub.HubLoss", name="cross-entropy + dice"),
    ),
    test_cfg=dict(mode="whole"),
)
