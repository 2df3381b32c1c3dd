"""The instance's metadata service and the few AWS calls that its agent makes."""
