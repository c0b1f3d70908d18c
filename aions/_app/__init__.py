"""Your process: async, on anyio. It makes no namespace call of its own and never forks; it asks a worker."""
