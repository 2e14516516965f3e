"""Layer-wise relevance propagation and DeepLIFT on a tape of the network's operations."""
