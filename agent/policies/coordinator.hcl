# An agent that may coordinate rollouts of {app}. On a host that also runs {app}: beside the policy of a node.
# Whoever has this token decides which code runs on every host.
key_prefix "{app}/" {
  policy = "read"
}
key "{app}/rollout" {
  policy = "write"
}
# The mirrors: image and spec.
key_prefix "{app}/active/" {
  policy = "write"
}
key_prefix "{app}/stage/" {
  policy = "write"
}
# Lock, members, audit; and reports of hosts that are gone for good are deleted.
key_prefix "{app}-status/" {
  policy = "write"
}
session_prefix "" {
  policy = "write"
}
service "tidegate-agent" {
  policy = "write"
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
