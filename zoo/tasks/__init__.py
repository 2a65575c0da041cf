"""The shared tasks, registered like any component. Each describes its data, its settings and its metric."""
