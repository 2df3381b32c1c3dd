# A person or a pipeline that deploys {app}: commands of `tidegate`, and the two image keys by hand.
# Whoever has this token decides which code runs on every host.
key_prefix "{app}/" {
  policy = "read"
}
key "{app}/rollout" {
  policy = "write"
}
key "{app}/active/image" {
  policy = "write"
}
key "{app}/stage/image" {
  policy = "write"
}
# Each command leaves its audit entry; the rest of the status is the coordinator's and the hosts'.
key_prefix "{app}-status/" {
  policy = "read"
}
key_prefix "{app}-status/history/" {
  policy = "write"
}
service "tidegate-agent" {
  policy = "read"
}
service "{app}" {
  policy = "read"
}
node_prefix "" {
  policy = "read"
}
agent_prefix "" {
  policy = "read"
}
