import pg from 'pg'

/** Pools over one server that are ended together. */
export interface Pools {
  make(config?: pg.PoolConfig): pg.Pool
  end(): Promise<void>
}

export function poolsOf(connectionString: string | undefined): Pools {
  const pools: pg.Pool[] = []
  return {
    make: (config = {}) => {
      const pool = new pg.Pool({ connectionString, max: 4, ...config })
      pool.on('error', () => undefined)
      pools.push(pool)
      return pool
    },
    end: async () => {
      for (const pool of pools) await pool.end()
    },
  }
}
