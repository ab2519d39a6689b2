//! One queue for every request of the node that goes to the network.
