"""The shared tasks, registered like any component. Each says its generator, its settings and its metric."""
