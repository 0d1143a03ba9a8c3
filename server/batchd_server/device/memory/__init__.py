"""Where memory readings come from: the CUDA allocator, NVML, cgroups and /proc, and a ledger of tensor storages."""
