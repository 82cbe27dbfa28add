# The survey's schedule (arXiv 2312.05391), after the defaults of its code: AdamW at 0.01 with
# PyTorch's weight decay of 0.01, one cycle over 50 epochs with PyTorch's shape (up for 30 % of the
# steps, cosine down). For another length change max_epochs and total_steps together.
# Differs: PyTorch's OneCycleLR moves beta1 between 0.95 and 0.85, MMEngine's leaves it at 0.9; the
# code validates every 1000 iterations, here every epoch (1488 of Cityscapes, 1105 of Synapse).
# Not stated: seeds, number of runs, and whether the published table used these defaults.
train_cfg = dict(_scope_="mmseg", type="EpochBasedTrainLoop", max_epochs=50, val_interval=1)
val_cfg = dict(_scope_="mmseg", type="ValLoop")
optim_wrapper = dict(
    _scope_="mmseg", type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.01)
)
param_scheduler = dict(
    _scope_="mmseg",
    type="OneCycleLR",
    eta_max=0.01,
    total_steps=50,
    by_epoch=True,
    convert_to_iter_based=True,
)
