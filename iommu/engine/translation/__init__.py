"""DMA remapping (spec chapter 3): from a request to its host address."""
