"""LightningModules and LightningDataModules as targets."""
