# Looks at {app} and changes nothing: `tidegate status`, `history`, `show`, `nodes`, a dashboard.
# It sees the environment that a recorded spec holds: keep secrets out of specs (env_files).
key_prefix "{app}/" {
  policy = "read"
}
key_prefix "{app}-status/" {
  policy = "read"
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
