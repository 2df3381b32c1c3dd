# A host that runs {app}. It reads what it shall serve, and writes what it does: nothing here lets it deploy.
key_prefix "{app}/" {
  policy = "read"
}
key_prefix "{app}-status/nodes/" {
  policy = "write"
}
# It registers itself; the names are all that Consul's rules know, so a host could register under another's.
service "{app}" {
  policy = "write"
}
service "tidegate-agent" {
  policy = "write"
}
# Services are shown only together with the nodes they are on.
node_prefix "" {
  policy = "read"
}
# `tidegate doctor` shows the version of the local Consul agent.
agent_prefix "" {
  policy = "read"
}
