"""The networks: backbone, distillation between the tasks, heads."""
