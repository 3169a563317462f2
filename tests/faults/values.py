"""Values that a config cannot have, given on the command line."""

from tests.conftest import ROOT
from tests.faults.builders import Fault, train, value


def _override(setting: str, *words: str) -> Fault:
    config = f"--config={ROOT}/tests/tiny.py"
    return train(config, f"--config.model.overrides={{{setting}}}").but(*words)


VALUES = [
    value("data.sise=3", "--config.data.sise=3: the config has no key 'sise'"),
    value("dta.size=3", "--config.dta.size=3: the config has no key 'dta'"),
    value("task_weights.sky=3", "no key 'sky'"),
    value("model=hps", "config.model"),
    value("batch_size=four", "batch_size=four"),
    value("batch_size=4.5", "batch_size=4.5"),
    value("profile=perhaps", "profile=perhaps"),
    value("data.image_size=('a','b')", r"image_size is \('a', 'b'\); it must be"),
    value("data.image_size=(32,64,3)", r"image_size is \(32, 64, 3\); it must be"),
    value("data.image_size=(32.0,64.0)", r"image_size is \(32.0, 64.0\)"),
    value("data.image_size=(-32,64)", r"image_size is \(-32, 64\)", "multiples of 32"),
    value("data.image_size=(32,32000000)", "32000000", "16384"),
    value("data.image_size=(32,", r"image_size=\(32,"),
    value("tasks=()", r"tasks \[\] do not fit", "semseg, depth, normals"),
    value("tasks=('depth','depth')", "each once"),
    value("tasks=sky", r"tasks \['sky'\]"),
    value("tasks=(1,)", r"config.tasks is \(1,\)"),
    value("task_weights.depth=nan", "task_weights.depth is nan", "at least 0"),
    value("task_weights.depth=-1", "task_weights.depth is -1"),
    value("batch_size=0", "batch_size is 0", "between 1"),
    value("batch_size=6", "batch_size is 6", "a multiple of 4"),
    value("batch_size=64", "batch_size is 64", "at most the number of images to train on, 8"),
    value("eval_batch_size=4000000000", "eval_batch_size is 4000000000"),
    value("epochs=nan", "epochs is nan; it must be positive"),
    value("epochs=inf", "epochs is inf"),
    value("epochs=1e300", r"epochs is 1e\+300", "at most 1000000"),
    value("eval_every_epochs=0", "eval_every_epochs is 0.0"),
    value("optimizer.learning_rate=nan", "optimizer.learning_rate is nan"),
    value("optimizer.learning_rate=-0.1", "optimizer.learning_rate is -0.1"),
    value("optimizer.l2=-1", "optimizer.l2 is -1.0"),
    value("optimizer.clip_norm=0", "optimizer.clip_norm is 0.0", "None"),
    value("optimizer.clip_norm=much", "clip_norm=much"),
    value("optimizer.schedule=linear", "'linear'; known schedules: cosine"),
    value("optimizer.warmup_steps=99", "warmup_steps is 99", "between 0 and the run's 6 steps"),
    value("seed=-1", "config.seed is -1", "between 0 and"),
    value("data.seed=100000000000000000000", "config.data.seed is 1000"),
    value("data.threads=-1", "data.threads is -1"),
    value("data.prefetch=-1", "data.prefetch is -1"),
    value("data.classes=-1", "data.classes is -1", "13 classes"),
    value("data.val_examples=0", "val_examples is 0", "between 1 and"),
    value("log_every_steps=0", "log_every_steps is 0; it must be positive"),
    value("accumulate=3", "accumulate is 3"),
    value("mesh.rows=3", "mesh.rows is 3", "it must divide"),
    value("augment.scale=(nan,nan)", "augment.scale"),
    value("augment.hue=nan", "augment.hue is nan", "between 0"),
    value("precision=float16", "'float16'", "bfloat16"),
    value("remat=all", "'all'", "everything"),
    value("checkpoint.best_metric=sky/x", "'sky/x'", "depth/rmse_m"),
    value("data.dataset=mars", "'mars'", "nyuv2"),
    value("model.name=ema_net", "ema_net cannot be built on segnet_tiny", "choose from"),
    value("model.pretrained=no.pth", "pretrained is 'no.pth', but there is no such file"),
    value("model.pretrained=weights.npz", "weights.npz", "missing"),
    value("model.overrides={'features':8}", "'features'", "choose from"),
    _override("'features':'x','distilled':8", "overrides.features is 'x'", "whole number"),
    _override("'features':16,'distilled':0", "overrides.distilled is 0", "positive"),
]
