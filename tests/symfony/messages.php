<?php

// The messages, and a stamp, of the application in app.php.

namespace App\Message {
    final class SmsNotification
    {
        /** @param array<string, string> $metaData */
        public function __construct(
            public readonly string $phoneNumber,
            public readonly string $text = '',
            public readonly array $metaData = [],
            public readonly ?Sender $sentBy = null,
            public readonly ?\DateTimeImmutable $sendAt = null,
            public readonly Priority $priority = Priority::Normal,
            public readonly float $price = 0.0,
        ) {
        }
    }

    final class Sender
    {
        public function __construct(public readonly string $fullName)
        {
        }
    }

    enum Priority: string
    {
        case Normal = 'normal';
        case Urgent = 'urgent';
    }

    final class CacheCleared
    {
    }
}

namespace App\Stamp {
    final class Shop implements \Symfony\Component\Messenger\Stamp\StampInterface
    {
        public function __construct(private string $shopName)
        {
        }

        public function getShopName(): string
        {
            return $this->shopName;
        }
    }
}
