<?php

// A Symfony Messenger application in one file: it dispatches, consumes, and looks after its failed messages.
//
//     php app.php '{"transports": {"async": "redis://…", "failed": "redis://…"}, …}' COMMAND ARGUMENT…
//     php app.php check
//
// What happens to messages is written as lines of JSON.

namespace App;

use App\Message\CacheCleared;
use App\Message\SmsNotification;
use Doctrine\DBAL\DriverManager;
use Doctrine\DBAL\Tools\DsnParser;
use Symfony\Component\Console\Input\ArrayInput;
use Symfony\Component\Console\Output\ConsoleOutput;
use Symfony\Component\DependencyInjection\ServiceLocator;
use Symfony\Component\EventDispatcher\EventDispatcher;
use Symfony\Component\Messenger\Bridge\Amqp\Transport\AmqpTransportFactory;
use Symfony\Component\Messenger\Bridge\Beanstalkd\Transport\BeanstalkdTransportFactory;
use Symfony\Component\Messenger\Bridge\Doctrine\Transport\Connection as DoctrineConnection;
use Symfony\Component\Messenger\Bridge\Doctrine\Transport\DoctrineTransport;
use Symfony\Component\Messenger\Bridge\Doctrine\Transport\PostgreSqlConnection;
use Symfony\Component\Messenger\Bridge\Redis\Transport\RedisTransportFactory;
use Symfony\Component\Messenger\Command\FailedMessagesRetryCommand;
use Symfony\Component\Messenger\Command\FailedMessagesShowCommand;
use Symfony\Component\Messenger\Envelope;
use Symfony\Component\Messenger\Event\WorkerMessageFailedEvent;
use Symfony\Component\Messenger\Event\WorkerMessageHandledEvent;
use Symfony\Component\Messenger\Event\WorkerMessageReceivedEvent;
use Symfony\Component\Messenger\EventListener\AddErrorDetailsStampListener;
use Symfony\Component\Messenger\EventListener\SendFailedMessageForRetryListener;
use Symfony\Component\Messenger\EventListener\SendFailedMessageToFailureTransportListener;
use Symfony\Component\Messenger\EventListener\StopWorkerOnMessageLimitListener;
use Symfony\Component\Messenger\EventListener\StopWorkerOnTimeLimitListener;
use Symfony\Component\Messenger\Handler\HandlersLocator;
use Symfony\Component\Messenger\MessageBus;
use Symfony\Component\Messenger\Middleware\AddBusNameStampMiddleware;
use Symfony\Component\Messenger\Middleware\FailedMessageProcessingMiddleware;
use Symfony\Component\Messenger\Middleware\HandleMessageMiddleware;
use Symfony\Component\Messenger\Middleware\SendMessageMiddleware;
use Symfony\Component\Messenger\Retry\MultiplierRetryStrategy;
use Symfony\Component\Messenger\RoutableMessageBus;
use Symfony\Component\Messenger\Stamp\DelayStamp;
use Symfony\Component\Messenger\Stamp\ValidationStamp;
use Symfony\Component\Messenger\Transport\Sender\SendersLocator;
use Symfony\Component\Messenger\Transport\Serialization\Normalizer\FlattenExceptionNormalizer;
use Symfony\Component\Messenger\Transport\Serialization\Serializer;
use Symfony\Component\Messenger\Transport\SetupableTransportInterface;
use Symfony\Component\Messenger\Worker;
use Symfony\Component\PropertyInfo\Extractor\ReflectionExtractor;
use Symfony\Component\PropertyInfo\PropertyInfoExtractor;
use Symfony\Component\Serializer\Encoder\JsonEncoder;
use Symfony\Component\Serializer\NameConverter\CamelCaseToSnakeCaseNameConverter;
use Symfony\Component\Serializer\Normalizer\ArrayDenormalizer;
use Symfony\Component\Serializer\Normalizer\BackedEnumNormalizer;
use Symfony\Component\Serializer\Normalizer\DateTimeNormalizer;
use Symfony\Component\Serializer\Normalizer\ObjectNormalizer;
use Symfony\Component\Serializer\Serializer as StructuredSerializer;

error_reporting(E_ALL & ~E_DEPRECATED & ~E_USER_DEPRECATED);
date_default_timezone_set('UTC');
foreach (['Messenger', 'Serializer', 'PropertyAccess', 'PropertyInfo', 'EventDispatcher', 'DependencyInjection', 'Console'] as $component) {
    require_once "Symfony/Component/$component/autoload.php";
}
foreach (['Amqp', 'Beanstalkd', 'Doctrine', 'Redis'] as $bridge) {
    require_once "Symfony/Component/Messenger/Bridge/$bridge/autoload.php";
}
require_once 'Doctrine/DBAL/autoload.php';
require_once __DIR__.'/messages.php';

// --- "check" says whether all is installed

if ('check' === $argv[1]) {
    require_once 'Symfony/Component/ErrorHandler/autoload.php';
    exit(array_diff(['amqp', 'redis', 'pdo_sqlite', 'pdo_pgsql'], get_loaded_extensions()) ? 1 : 0);
}

$config = json_decode($argv[1], true, flags: JSON_THROW_ON_ERROR);
if ($config['error_handler']) {
    require_once 'Symfony/Component/ErrorHandler/autoload.php';
}

// --- the serializer, as FrameworkBundle puts it together

$reflection = new ReflectionExtractor();
$properties = new PropertyInfoExtractor([$reflection], [$reflection], [], [$reflection], [$reflection]);
$names = $config['snake_case'] ? new CamelCaseToSnakeCaseNameConverter() : null;
$normalizers = [new DateTimeNormalizer(), new BackedEnumNormalizer(), new ArrayDenormalizer(), new ObjectNormalizer(null, $names, null, $properties)];
if ($config['error_handler']) {
    array_unshift($normalizers, new FlattenExceptionNormalizer());
}
$structured = new StructuredSerializer($normalizers, [new JsonEncoder()]);
$serializer = new Serializer($structured);

// --- the transports

/** Says where a database is: DBAL 4 takes no URL any more, and DBAL 3 had nothing to parse one until late. */
function parameters(string $url): array
{
    if (!class_exists(DsnParser::class)) {
        return ['url' => $url];
    }
    return (new DsnParser(['pgsql' => 'pdo_pgsql', 'sqlite' => 'pdo_sqlite']))->parse($url);
}

$transports = [];
foreach ($config['transports'] as $name => $dsn) {
    if (str_starts_with($dsn, 'doctrine://')) {
        // The factory wants a registry of connections, which is part of a bundle.
        $options = DoctrineConnection::buildConfiguration($dsn);
        $class = str_starts_with($config['database'], 'pgsql://') ? PostgreSqlConnection::class : DoctrineConnection::class;
        $connection = new $class($options, DriverManager::getConnection(parameters($config['database'])));
        $transports[$name] = new DoctrineTransport($connection, $serializer);
        continue;
    }
    foreach ([new RedisTransportFactory(), new AmqpTransportFactory(), new BeanstalkdTransportFactory()] as $factory) {
        if ($factory->supports($dsn, [])) {
            $transports[$name] = $factory->createTransport($dsn, [], $serializer);
        }
    }
}
$locator = static fn (array $services) => new ServiceLocator(array_map(static fn ($service) => static fn () => $service, $services));

// --- the bus

function say(string $what, Envelope $envelope): void
{
    global $serializer;
    $encoded = $serializer->encode($envelope);
    echo json_encode(['what' => $what, 'type' => $encoded['headers']['type'], 'message' => json_decode($encoded['body']), 'headers' => $encoded['headers']]), "\n";
}

$handle = static function (object $message) use ($config): void {
    if ($config['fail']) {
        throw new \RuntimeException('the gateway is down', 503);
    }
};
$dispatcher = new EventDispatcher();
$bus = new MessageBus([
    new AddBusNameStampMiddleware('messenger.bus.default'),
    new FailedMessageProcessingMiddleware(),
    new SendMessageMiddleware(new SendersLocator(['*' => ['async']], $locator($transports))),
    new HandleMessageMiddleware(new HandlersLocator([SmsNotification::class => [$handle], CacheCleared::class => [$handle]])),
]);
$routable = new RoutableMessageBus($locator(['messenger.bus.default' => $bus]), $bus);

$dispatcher->addListener(WorkerMessageReceivedEvent::class, static fn ($event) => say('received', $event->getEnvelope()));
$dispatcher->addListener(WorkerMessageHandledEvent::class, static fn ($event) => say('handled', $event->getEnvelope()));
$dispatcher->addListener(WorkerMessageFailedEvent::class, static fn ($event) => say('failed', $event->getEnvelope()), -1000);
$dispatcher->addSubscriber(new AddErrorDetailsStampListener());
$strategy = new MultiplierRetryStrategy($config['max_retries'], $config['retry_delay']);
$dispatcher->addSubscriber(new SendFailedMessageForRetryListener($locator($transports), $locator(array_map(static fn () => $strategy, $transports)), null, $dispatcher));
if (isset($transports['failed'])) {
    $failed = array_map(static fn () => $transports['failed'], $transports);
    $dispatcher->addSubscriber(new SendFailedMessageToFailureTransportListener($locator($failed)));
}

// --- the commands

$command = $argv[2];
$arguments = array_slice($argv, 3);
if ('setup' === $command) {
    array_map(static fn ($transport) => $transport instanceof SetupableTransportInterface && $transport->setup(), $transports);
} elseif ('dispatch' === $command) {
    foreach ($arguments as $argument) {
        $given = json_decode($argument, true, flags: JSON_THROW_ON_ERROR);
        $message = $structured->denormalize($given['properties'] ?? [], 'App\\Message\\'.$given['class']);
        $stamps = [new ValidationStamp(['sms']), new Stamp\Shop('acme')];
        if (isset($given['delay'])) {
            $stamps[] = new DelayStamp($given['delay']);
        }
        $bus->dispatch($message, $stamps);
    }
} elseif ('consume' === $command) {
    [$name, $limit] = $arguments;
    $dispatcher->addSubscriber(new StopWorkerOnMessageLimitListener((int) $limit));
    $dispatcher->addSubscriber(new StopWorkerOnTimeLimitListener(60));
    (new Worker([$name => $transports[$name]], $routable, $dispatcher))->run(['sleep' => 20000]);
} elseif ('failed:show' === $command) {
    $show = new FailedMessagesShowCommand('failed', $locator(['failed' => $transports['failed']]));
    exit($show->run(new ArrayInput($arguments ? ['id' => $arguments[0]] : []), new ConsoleOutput()));
} elseif ('failed:retry' === $command) {
    $retry = new FailedMessagesRetryCommand('failed', $locator(['failed' => $transports['failed']]), $routable, $dispatcher);
    $input = new ArrayInput(['id' => $arguments, '--force' => true]);
    $input->setInteractive(false);
    exit($retry->run($input, new ConsoleOutput()));
} else {
    fwrite(STDERR, "There is no command $command.\n");
    exit(2);
}
