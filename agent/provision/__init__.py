"""What turns a machine into a host: the configurations of HAProxy and Consul."""
