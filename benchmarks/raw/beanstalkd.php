<?php

// Symfony Messenger's own worker on a tube of beanstalkd, with a handler that does nothing:
//
//     php beanstalkd.php beanstalkd://localhost:11300?tube_name=php 2000
//
// It sends so many messages, handles them, and prints how many seconds each took to be handled.

use Symfony\Component\EventDispatcher\EventDispatcher;
use Symfony\Component\Messenger\Bridge\Beanstalkd\Transport\BeanstalkdTransportFactory;
use Symfony\Component\Messenger\Envelope;
use Symfony\Component\Messenger\EventListener\StopWorkerOnMessageLimitListener;
use Symfony\Component\Messenger\Handler\HandlersLocator;
use Symfony\Component\Messenger\MessageBus;
use Symfony\Component\Messenger\Middleware\HandleMessageMiddleware;
use Symfony\Component\Messenger\Transport\Serialization\Serializer;
use Symfony\Component\Messenger\Worker;
use Symfony\Component\Serializer\Encoder\JsonEncoder;
use Symfony\Component\Serializer\Normalizer\ArrayDenormalizer;
use Symfony\Component\Serializer\Normalizer\ObjectNormalizer;
use Symfony\Component\Serializer\Serializer as StructuredSerializer;

error_reporting(E_ALL & ~E_DEPRECATED & ~E_USER_DEPRECATED);
foreach (['Messenger', 'Messenger/Bridge/Beanstalkd', 'Serializer', 'PropertyAccess', 'PropertyInfo', 'EventDispatcher'] as $component) {
    require_once "Symfony/Component/$component/autoload.php";
}

final class OrderPlaced
{
    public function __construct(public int $orderId, public string $customer)
    {
    }
}

[, $dsn, $number] = $argv;
// The serializer's own would need the extension for XML besides.
$structured = new StructuredSerializer([new ArrayDenormalizer(), new ObjectNormalizer()], [new JsonEncoder()]);
$transport = (new BeanstalkdTransportFactory())->createTransport($dsn, [], new Serializer($structured));
for ($sent = 0; $sent < $number; ++$sent) {
    $transport->send(new Envelope(new OrderPlaced(13, 'Ada Lovelace')));
}

$handle = static function (OrderPlaced $order): void {
};
$dispatcher = new EventDispatcher();
$dispatcher->addSubscriber(new StopWorkerOnMessageLimitListener((int) $number));
$bus = new MessageBus([new HandleMessageMiddleware(new HandlersLocator([OrderPlaced::class => [$handle]]))]);
$worker = new Worker(['orders' => $transport], $bus, $dispatcher);
$begun = hrtime(true);
$worker->run();
echo (hrtime(true) - $begun) / 1e9 / $number, "\n";
