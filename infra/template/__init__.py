"""The CloudFormation template: one module for each part of the stack, put together by `stack`."""
