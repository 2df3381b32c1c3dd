<?php
declare(strict_types=1);

$version = getenv('VERSION') ?: 'dev';
$now = time();
header("X-Version: $version");
header('Cache-Control: no-store');

/** The id Docker gave this container, as far as the container can know: its host name, unless one was set. */
function container_id(): string
{
    $mounts = @file_get_contents('/proc/self/mountinfo') ?: '';
    return preg_match('#/containers/([0-9a-f]{64})/#', $mounts, $found) ? substr($found[1], 0, 12) : gethostname();
}

$rows = [
    'Version' => $version,
    'Host' => gethostname(),
    'Container' => container_id(),
    'Unix time' => (string) $now,
    'Date' => gmdate('Y-m-d H:i:s', $now) . ' UTC',
];
?>
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Version <?= htmlspecialchars($version) ?></title>
<style>
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 4rem auto; padding: 0 1rem; color: #1c2630; }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1.5rem; }
  dt { color: #5b6875; }
  dd { margin: 0; font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>Version <?= htmlspecialchars($version) ?></h1>
<dl>
<?php foreach ($rows as $name => $value): ?>
  <dt><?= htmlspecialchars($name) ?></dt><dd><?= htmlspecialchars($value) ?></dd>
<?php endforeach ?>
</dl>
</body>
</html>
