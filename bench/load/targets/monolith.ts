// A service of one process that writes to Redis in each request. ioredis sends what one turn brings in one packet.
import { Redis } from 'ioredis'
import { listen, setting } from './listen.ts'

const redis = new Redis(setting('REDIS_URL'))
await listen(async (key, delta) => ({ value: await redis.incrby(`monolith:${key}`, delta) }))
