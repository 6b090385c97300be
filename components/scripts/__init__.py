"""Programs that pods run, mounted from ConfigMaps. Nothing here is imported."""
