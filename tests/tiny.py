"""Config of the command-line tests: everything as small as it goes, four batches an epoch."""

from emanet_jax.config import from_argument


def get_config(arg=None):
    config = from_argument(arg, backbone="hrnet_tiny")
    config.data.dataset = "synthrooms"
    config.data.layout = ""
    config.data.image_size = (32, 64)
    config.data.train_examples = 16
    config.data.val_examples = 6
    config.model.overrides = {"features": 16, "distilled": 8}
    config.epochs = 3.0
    config.batch_size = 4
    config.eval_batch_size = 4
    config.eval_every_epochs = 1.0
    config.log_every_steps = 2
    config.figure_images = 2
    config.optimizer.learning_rate = 1e-3
    return config.lock()
