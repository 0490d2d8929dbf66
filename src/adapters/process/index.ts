export { type Closable, type CloseOnExitOptions, closeOnExit } from './close-on-exit.js'
