# AdamW and one cycle over 8000 iterations. For another length change max_iters and total_steps
# together.
train_cfg = dict(_scope_="mmseg", type="IterBasedTrainLoop", max_iters=8000, val_interval=1000)
val_cfg = dict(_scope_="mmseg", type="ValLoop")
optim_wrapper = dict(_scope_="mmseg", type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.01))
param_scheduler = dict(
    _scope_="mmseg", type="OneCycleLR", eta_max=0.01, total_steps=8000, by_epoch=False
)
