"""The program that `pulumi up` runs: settings, cluster, platform, one workload for each model folder."""
