# The demo's U-Net of 28 thousand parameters. init_cfg=[] in it keeps PyTorch's initialisation: from
# MMSegmentation's, short runs on small data do not leave the all-background solution.
demo = __import__("importlib").import_module("segloss_hub.bench.configs")
demo = demo.training_config(
    dict(type="segloss_hub.HubLoss", name="cross-entropy + dice"),
    seed=0,
    iterations=1,
    work_dir=__import__("pathlib").Path(),
)
model = dict(demo["model"], _scope_="mmseg")
del model["data_preprocessor"]  # the data set's own takes its place
del demo
