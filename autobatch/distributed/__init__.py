"""More than one process or machine: trainings across a Ray cluster, a fleet of unlike machines."""
