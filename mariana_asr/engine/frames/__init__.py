"""The data path: the packed frames, their order, and the minibatches on the device."""
