# Runs counted in epochs: the last checkpoint, the best one, and the log.
default_scope = "mmseg"
randomness = dict(seed=0)
log_processor = dict(by_epoch=True)
default_hooks = dict(
    logger=dict(_scope_="mmseg", type="LoggerHook", interval=40),
    checkpoint=dict(
        _scope_="mmseg",
        type="CheckpointHook",
        by_epoch=True,
        interval=1,
        max_keep_ckpts=1,
        save_best="mIoU",
    ),
)
# Hands losses that need them features, classifier, image and maps; does nothing for the others.
custom_hooks = [dict(_scope_="mmseg", type="segloss_hub.HubHook")]
