# Nuclei under the microscope, three classes: the 64 crops that ship with the hub, CC0.
demo = __import__("importlib").import_module("segloss_hub.bench.configs")
demo = demo.training_config({}, seed=0, iterations=1, work_dir=__import__("pathlib").Path())
data_preprocessor = dict(demo["model"]["data_preprocessor"], _scope_="mmseg")
train_dataloader = demo["train_dataloader"]
val_dataloader = demo["val_dataloader"]
val_evaluator = [dict(metric, _scope_="mmseg") for metric in demo["val_evaluator"]]
for loader in (train_dataloader, val_dataloader):
    loader.update({key: dict(loader[key], _scope_="mmseg") for key in ("sampler", "dataset")})
del demo, loader
