<?php
declare(strict_types=1);

header('X-Version: ' . (getenv('VERSION') ?: 'dev'));
header('Content-Type: text/plain; charset=utf-8');
header('Cache-Control: no-store');
echo "ok\n";
