# Runs counted in iterations: the last checkpoint and the log.
default_scope = "mmseg"
randomness = dict(seed=0)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(_scope_="mmseg", type="LoggerHook", interval=10, log_metric_by_epoch=False),
    checkpoint=dict(
        _scope_="mmseg", type="CheckpointHook", by_epoch=False, interval=1000, max_keep_ckpts=1
    ),
)
# Hands losses that need them features, classifier, image and maps; does nothing for the others.
custom_hooks = [dict(_scope_="mmseg", type="segloss_hub.HubHook")]
